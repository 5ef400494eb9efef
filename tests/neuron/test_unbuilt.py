"""Loads that cannot be carried out yet are refused by name, before anything is fetched."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.ids import ModelSpec
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.neuron.daemons import TINY, running, started

ID = "own:org/name"
DENSE = ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("files", "asked", "status", "says"),
    [
        (DENSE, {"tensor_parallel": 2}, 400, "tensor_parallel is 2"),
        (("m-q4_k_m.gguf",), {"quant": "q9"}, 422, "quant_not_found"),
        (("model_index.json",), {}, 400, "images"),
        (("m-q4_k_m.gguf",), {"tensor_parallel": 2}, 422, "tp_requires_safetensors"),
        (DENSE, {"quant": "nope"}, 422, "quant_not_found"),
    ],
    ids=["split", "gguf", "images", "plan first", "quant first"],
)
def test_what_cannot_be_run_is_not_fetched(
    tmp_path: Path, files: tuple[str, ...], asked: dict[str, Any], status: int, says: str
) -> None:
    hub = FakeHub(dict.fromkeys(files, b"{}"))
    with ExitStack() as servers:
        hub.endpoint = servers.enter_context(serving(hub))
        hub.store = servers.enter_context(serving(hub))
        source = SourceConfig(endpoint=f"{hub.endpoint}/", cache_dir=str(tmp_path))
        config = NeuronConfig(port=0, engine=EngineSection(sources={"own": source}))
        at = servers.enter_context(started(config))
        answer = at.load(ID, **asked)
        assert at.models() == []
    assert answer.status_code == status
    told = answer.json()["error"]
    assert says in (told if status == 400 else told["kind"])
    assert {path for _, path, _, _ in hub.requests} == {"/api/models/org/name"}


def test_a_model_to_split_at_the_start_fails_by_name() -> None:
    spec = ModelSpec(model_id=TINY, tensor_parallel=2)
    with running(NeuronConfig(port=0, default_models=(spec,))) as at:
        activation = at.http.get("/health").json()["activation"]
        assert (activation["state"], at.models()) == ("ready", [])
        (failed,) = activation["failed"]
        assert failed["model_id"] == TINY
        assert "tensor_parallel is 2" in failed["error"]
        assert at.load(TINY, tensor_parallel=1).status_code == 200
