"""`helexa quantize` of a hub's model: what can be refused is, before a byte of weights is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.loading import load_model
from helexa.errors import (
    CheckpointError,
    HelexaError,
    InvalidRequest,
    PreflightError,
    UnsupportedModel,
)
from helexa.quantising import Written, quantise_to_file
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.test_quantising import TINY

FILES = {path.name: path.read_bytes() for path in TINY.iterdir() if path.is_file()}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
INDEX = {
    "metadata": {"total_size": 1 << 60},
    "weight_map": {"a": "1.safetensors", "b": "2.safetensors"},
}
SHARDED = {
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "1.safetensors": b"",
    "2.safetensors": b"",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub(dict(FILES))
    with ExitStack() as servers:
        fake.endpoint = servers.enter_context(serving(fake))
        fake.store = servers.enter_context(serving(fake))
        yield fake


Quantise = Callable[..., Written]


@pytest.fixture
def quantise(hub: FakeHub, tmp_path: Path) -> Quantise:
    opener = partial(
        open_checkpoint, cache_dir=tmp_path / "cache", environ={"HF_ENDPOINT": hub.endpoint}
    )
    return partial(quantise_to_file, "org/name", open_model=opener)


def with_config(**changes: Any) -> dict[str, bytes]:
    config = json.loads(FILES["config.json"]) | changes
    return {"config.json": json.dumps(config).encode()}


@pytest.mark.parametrize("to", ["q", "q.gguf"])
def test_a_plain_model_is_fetched_and_written(
    hub: FakeHub, quantise: Quantise, tmp_path: Path, to: str
) -> None:
    assert quantise(tmp_path / to, "q8_0").tensors["Q8_0"] == 35
    assert len(hub.asked("model.safetensors")) == 1


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        (with_config(quantization_config=FP8), UnsupportedModel, "quantised already"),
        (with_config(quantization_config=AWQ), UnsupportedModel, "quantised already"),
        (with_config(quantization_config={"quant_method": "x"}), UnsupportedModel, "quant_method"),
        (with_config(model_type="mamba"), UnsupportedModel, "unsupported model_type 'mamba'"),
        (SHARDED, CheckpointError, "needs .* bytes, .* has .* left"),
    ],
    ids=["fp8", "awq", "unknown method", "architecture", "disk"],
)
@pytest.mark.parametrize("to", ["q", "q.gguf"])
def test_what_cannot_be_written_is_not_fetched(
    hub: FakeHub,
    quantise: Quantise,
    tmp_path: Path,
    to: str,
    changes: dict[str, bytes],
    kind: type[HelexaError],
    told: str,
) -> None:
    hub.files |= changes
    with pytest.raises(kind, match=told):
        quantise(tmp_path / to, "q4_k")
    assert_nothing_fetched(hub, tmp_path)


def assert_nothing_fetched(hub: FakeHub, folder: Path) -> None:
    assert hub.requests
    assert not [request for request in hub.requests if request[1].startswith("/store/")]
    assert {path.name for path in folder.iterdir()} <= {"cache"}


@pytest.mark.parametrize("to", ["q", "q.gguf"])
def test_a_repository_of_gguf_files(
    hub: FakeHub, quantise: Quantise, tmp_path: Path, to: str
) -> None:
    hub.files = {"m-Q4_K_M.gguf": b"four bits", "tokenizer.json": FILES["tokenizer.json"]}
    with pytest.raises(UnsupportedModel, match="quantised already"):
        quantise(tmp_path / to, "q4_k")
    assert [request[1] for request in hub.requests] == ["/api/models/org/name"]


def test_only_gguf_needs_a_tokenizer(hub: FakeHub, quantise: Quantise, tmp_path: Path) -> None:
    del hub.files["tokenizer.json"]
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json") as caught:
        quantise(tmp_path / "q.gguf", "q4_k")
    assert "folder" in caught.value.hint
    assert_nothing_fetched(hub, tmp_path)
    assert quantise(tmp_path / "q", "q4_k").tensors["Q4_K"] == 35


def test_what_gguf_cannot_say_is_told_first(
    hub: FakeHub, quantise: Quantise, tmp_path: Path
) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "truncate": False}
    hub.files |= with_config(rope_scaling=yarn | {"original_max_position_embeddings": 512})
    with pytest.raises(UnsupportedModel, match="truncate"):
        quantise(tmp_path / "q.gguf", "q4_k")
    assert_nothing_fetched(hub, tmp_path)
    assert quantise(tmp_path / "q", "q4_k").tensors["Q4_K"] == 35


def test_a_tokenizer_that_gguf_cannot_hold_is_told_first(
    hub: FakeHub, quantise: Quantise, tmp_path: Path
) -> None:
    hub.files |= {"tokenizer.json": b'{"model": {}}'}
    with pytest.raises(CheckpointError, match="cannot be written to GGUF"):
        quantise(tmp_path / "q.gguf", "q4_k")
    assert_nothing_fetched(hub, tmp_path)


@pytest.mark.parametrize(
    ("to", "quant", "kind"),
    [
        ("q", "q9", PreflightError),
        ("q.gguf", "", InvalidRequest),
        ("no/q", "q4_k", InvalidRequest),
        ("model.bin", "q4_k", InvalidRequest),
        (".", "q4_k", InvalidRequest),
    ],
)
def test_a_wrong_argument_asks_nobody(
    hub: FakeHub, quantise: Quantise, tmp_path: Path, to: str, quant: str, kind: type[HelexaError]
) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(kind):
        quantise(tmp_path / to, quant)
    assert not hub.requests


def test_a_written_folder_can_be_put_on_a_hub(
    hub: FakeHub, quantise: Quantise, tmp_path: Path
) -> None:
    folder = quantise_to_file("tiny", tmp_path / "m", "q6_k", shard_bytes=10**6).path
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UnsupportedModel, match="quantised already"):
        quantise(tmp_path / "again", "q4_k")
    assert not [request for request in hub.requests if request[1].startswith("/store/")]
    environ = {"HF_ENDPOINT": hub.endpoint}
    with closing(
        open_checkpoint("org/name", cache_dir=tmp_path / "cache", environ=environ)
    ) as fetched:
        logits = load_model(fetched).compute_logits([1, 2, 3])
    assert torch.equal(logits, load_model(folder).compute_logits([1, 2, 3]))
