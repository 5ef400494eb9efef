"""What is decided from the names of a model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helexa.engine.config import ModelConfig
from helexa.engine.quant.names import SHOWN
from helexa.errors import CheckpointError, PreflightError, UnsupportedModel
from helexa.neuron.preflight import (
    RepoFormat,
    classify,
    cold_capabilities,
    distance,
    make_plan,
    nearest,
    pick_gguf,
    quant_tag,
)
from helexa.protocol.envelope import refused_load

ID = "huggingface:org/name"
FOUR = [f"model-{q}.gguf" for q in ("q4_k_p", "q5_k_p", "q6_k_p", "q8_k_p")]
DENSE = ["config.json", "model.safetensors"]
SHARDS = ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["B-Q8_0.gguf", "a-q4.GGUF"], {"kind": "gguf", "quants": ["a-q4.gguf", "b-q8_0.gguf"]}),
        (SHARDS, {"kind": "dense_safetensors", "sharded": True}),
        (DENSE, {"kind": "dense_safetensors", "sharded": False}),
        ([*DENSE, "M-q4.gguf"], {"kind": "mixed", "gguf_quants": ["m-q4.gguf"]}),
        (["README.md"], {"kind": "empty"}),
        (["mmproj-f16.gguf"], {"kind": "empty"}),
        (["Model_Index.json", "unet/x.safetensors", "a.gguf"], {"kind": "diffusers"}),
        (["unet/model_index.json", *DENSE], {"kind": "dense_safetensors", "sharded": False}),
    ],
    ids=["gguf", "shards", "one", "both", "neither", "projector", "pipeline", "not at the root"],
)
def test_n041_classify(files: list[str], said: dict[str, Any]) -> None:
    assert classify(files).to_json() == said


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("q6_k_p", "Model-Q6_K_P.gguf"),
        ("Q6_K_P", "Model-Q6_K_P.gguf"),
        ("q6k", "Model-Q6_K_P.gguf"),
        ("", "Model-Q4_K_P.gguf"),
        (None, "Model-Q4_K_P.gguf"),
        ("q9", None),
    ],
    ids=["substring", "capitals", "without _", "empty", "none", "no match"],
)
def test_n042_pick_gguf(quant: str | None, file: str | None) -> None:
    files = ["A-mmproj.txt", "MMPROJ-q6_k_p.gguf", "Model-Q4_K_P.gguf", "Model-Q6_K_P.gguf"]
    assert pick_gguf(files, quant) == file


def test_n043_nearest() -> None:
    assert nearest("q6k", FOUR) == "q6_k_p"
    assert (nearest("", FOUR), nearest("q6k", [])) == (None, None)
    tags = [quant_tag(stem) for stem in ("m-q6_k_p", "m-iq4_xs", "simple", "x/qwen2.5-Q4_0.gguf")]
    assert tags == ["q6_k_p", "iq4_xs", "simple", "q4_0"]
    assert distance("kitten", "sitting") == 3
    assert (distance("q6k", "q6_k_p"), distance("q6k", "q4_k_p")) == (3, 4)
    assert (distance("", "abc"), distance("abc", "")) == (3, 3)
    assert nearest("a", ["x-b.gguf", "x-c.gguf"]) == "b"


@pytest.mark.parametrize(
    ("files", "asked", "format", "picked"),
    [
        (["model_index.json"], {}, RepoFormat("diffusers"), None),
        (["model_index.json"], {"quant": "q8_0"}, RepoFormat("diffusers"), None),
        (FOUR, {"quant": "q5_k_p"}, RepoFormat("gguf", tuple(FOUR)), "model-q5_k_p.gguf"),
        (DENSE, {"tp_size": 2}, RepoFormat("dense_safetensors"), None),
        (DENSE, {"quant": "Q4KM"}, RepoFormat("dense_safetensors"), None),
        (DENSE, {"quant": "q8"}, RepoFormat("dense_safetensors"), None),
        ([*DENSE, "m-q4.gguf"], {"tp_size": 2, "quant": "q5k"}, None, None),
    ],
    ids=["pipeline", "pipeline q8_0", "gguf", "dense tp", "dense quant", "engine's own", "mixed"],
)
def test_n044_feasible(
    files: list[str], asked: dict[str, Any], format: RepoFormat | None, picked: str | None
) -> None:
    plan = make_plan(ID, files, more_quants=["q8"], **asked)
    assert plan.format == (format or RepoFormat("mixed", ("m-q4.gguf",)))
    assert plan.picked_quant_file == picked
    assert plan.to_json() == {
        "model_id": ID,
        "format": plan.format.to_json(),
        "tp_size": asked.get("tp_size", 1),
        "picked_quant_file": picked,
    }


@pytest.mark.parametrize(
    ("files", "asked", "said"),
    [
        (
            ["model_index.json"],
            {"tp_size": 2},
            {"kind": "tp_requires_safetensors", "tp_size": 2, "gguf_quants": []},
        ),
        (
            FOUR,
            {"tp_size": 2},
            {"kind": "tp_requires_safetensors", "tp_size": 2, "gguf_quants": FOUR},
        ),
        (
            FOUR,
            {"quant": "q6_m"},
            {
                "kind": "quant_not_found",
                "requested": "q6_m",
                "nearest": "q6_k_p",
                "available": FOUR,
            },
        ),
        ([], {}, {"kind": "empty_repo"}),
        (
            DENSE,
            {"quant": "nope"},
            {
                "kind": "quant_not_found",
                "requested": "nope",
                "available": list(SHOWN),
                "nearest": nearest("nope", SHOWN),
            },
        ),
    ],
    ids=["pipeline tp", "gguf tp", "no such quant", "empty", "dense nope"],
)
def test_n044_refused(files: list[str], asked: dict[str, Any], said: dict[str, Any]) -> None:
    with pytest.raises(PreflightError) as refusal:
        make_plan(ID, files, **asked)
    told = refused_load(refusal.value).body()["error"]
    told.pop("suggestion", None)
    assert told == {**said, "model_id": ID}


def test_n045_error_json() -> None:
    with pytest.raises(PreflightError) as refusal:
        make_plan(ID, FOUR, tp_size=2)
    told = json.loads(json.dumps(refused_load(refusal.value).body()["error"]))
    assert told.keys() == {"kind", "model_id", "tp_size", "gguf_quants", "suggestion"}
    assert told["suggestion"]


@pytest.mark.parametrize(
    ("files", "config", "said"),
    [
        (["model_index.json"], None, ["image"]),
        (DENSE, "{}", ["text"]),
        (DENSE, '{"vision_config": {}}', ["text", "vision"]),
        (FOUR, None, ["text"]),
        (["config.json"], '{"vision_config": {}}', []),
        (DENSE, "{broken", ["text"]),
        (DENSE, "[]", ["text"]),
        (DENSE, "[" * 100_000, ["text"]),
    ],
    ids=["pipeline", "dense", "vision", "gguf", "no weights", "broken", "a list", "deep"],
)
def test_n037_cold_capabilities(files: list[str], config: str | None, said: list[str]) -> None:
    assert cold_capabilities(files, config) == said


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        (
            '{"model_type": "fictional_arch_99"}',
            UnsupportedModel,
            ["fictional_arch_99", ID, "qwen3"],
        ),
        ("{}", UnsupportedModel, ["missing `model_type`"]),
        ("{", CheckpointError, ["config.json"]),
    ],
    ids=["unknown", "missing", "no JSON"],
)
def test_n049_dense_config(
    text: str, error: type[Exception], named: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(error) as refusal:
        ModelConfig.from_file(path, ID)
    assert all(part in str(refusal.value) for part in named)
