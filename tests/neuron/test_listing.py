"""What a model consists of, asked of a hub on this machine or seen on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helexa.errors import InvalidRequest, PreflightError, UnsupportedModel
from helexa.neuron.config import EngineSection, SourceConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.listing import known_capabilities, preflight
from helexa.neuron.preflight import Plan
from helexa.neuron.sources import Sources
from helexa.protocol.envelope import refused_load
from helexa.quantising import quantise_to_file
from tests.engine.checkpoint.conftest import FakeHub, serving

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub({"config.json": b"{}", "model.safetensors": b""})
    with serving(fake) as fake.endpoint:
        yield fake


def sources(tmp_path: Path, endpoint: str = NOWHERE, token: str = "") -> Sources:
    engine = EngineSection(hf_cache=str(tmp_path / "cache"))
    return Sources.of(engine, {"HF_ENDPOINT": endpoint, "HF_TOKEN": token})


def plan(id: str, at: Sources, **asked: str) -> Plan:
    return preflight(ModelSpec(model_id=id, **asked), at, {}).plan


def snapshot(tmp_path: Path, *files: str, commit: str = "c0ffee") -> Path:
    repo = tmp_path / "cache" / "models--org--name"
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    return folder


def test_n046_hub(hub: FakeHub, tmp_path: Path) -> None:
    found = plan("org/name", sources(tmp_path, hub.endpoint, token="secret"))
    assert (found.model_id, found.format.kind) == ("huggingface:org/name", "dense_safetensors")
    assert hub.requests == [("GET", "/api/models/org/name", "", "Bearer secret")]


def test_n046_a_revision_is_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    plan("org/name", sources(tmp_path, hub.endpoint), revision="v1.0")
    assert [path for _, path, _, _ in hub.requests] == ["/api/models/org/name/revision/v1.0"]


def test_n046_not_found(hub: FakeHub, tmp_path: Path) -> None:
    hub.listing_status = 404
    with pytest.raises(PreflightError) as refusal:
        plan("org/name", sources(tmp_path, hub.endpoint))
    told = refused_load(refusal.value).body()["error"]
    assert told.keys() == {"kind", "model_id", "cause"}
    assert (told["kind"], told["model_id"]) == ("repo_fetch_failed", "huggingface:org/name")


def test_n047_offline_dense(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, "config.json", "model.safetensors")
    (folder / "broken.gguf").symlink_to(tmp_path / "nowhere")
    found = plan("org/name", sources(tmp_path))
    assert found.format.to_json() == {"kind": "dense_safetensors", "sharded": False}


def test_n047_offline_gguf(tmp_path: Path) -> None:
    snapshot(tmp_path, "m-q4_k_m.gguf", "m-q6_k.gguf")
    found = plan("org/name", sources(tmp_path), quant="Q6K")
    assert found.picked_quant_file == "m-q6_k.gguf"


@pytest.mark.parametrize("empty", [True, False], ids=["empty snapshot", "no snapshot"])
def test_n047_nothing_there(tmp_path: Path, empty: bool) -> None:
    if empty:
        snapshot(tmp_path)
    with pytest.raises(PreflightError) as refusal:
        plan("org/name", sources(tmp_path))
    assert refusal.value.kind == "repo_fetch_failed"
    assert "no copy of it" in refused_load(refusal.value).body()["error"]["cause"]


def test_a_name_with_slashes_has_a_folder_of_its_own(tmp_path: Path) -> None:
    snapshot(tmp_path, "model.safetensors")
    (tmp_path / "cache/models--org--name").rename(tmp_path / "cache/models--org--a--b")
    assert plan("org/a/b", sources(tmp_path)).model_id == "huggingface:org/a/b"


def test_a_folder_of_models(tmp_path: Path) -> None:
    models = tmp_path / "models" / "org"
    (models / "dense").mkdir(parents=True)
    (models / "dense" / "model.safetensors").touch()
    (models / "one-q8_0.gguf").touch()
    engine = EngineSection(sources={"disk": SourceConfig(path=str(tmp_path / "models"))})
    at = Sources.of(engine, {})
    assert plan("disk:org/dense", at).format.kind == "dense_safetensors"
    assert plan("disk:org/one-q8_0.gguf", at).picked_quant_file == "one-q8_0.gguf"
    with pytest.raises(PreflightError, match="No such file") as refusal:
        plan("disk:org/other", at)
    assert refusal.value.kind == "repo_fetch_failed"


def test_the_model_in_the_package_is_always_there(tmp_path: Path) -> None:
    found = plan("builtin:helexa/tiny", sources(tmp_path))
    assert found.format.kind == "dense_safetensors"
    with pytest.raises(PreflightError):
        plan("builtin:helexa/other", sources(tmp_path))


def test_n048_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"'zz'.*configured: builtin, huggingface"):
        plan("zz:o/n", sources(tmp_path))


def test_n037_cold_models(tmp_path: Path) -> None:
    def says(id: str) -> list[str] | None:
        return known_capabilities(id, sources(tmp_path), {})

    assert says("org/name") is None
    folder = snapshot(tmp_path, "config.json", "model.safetensors")
    assert says("org/name") == ["text"]
    (folder / "config.json").write_text('{"vision_config": {}}')
    assert says("org/name") == ["text", "vision"]
    (folder / "config.json").write_bytes(b"\xff")
    assert says("org/name") == ["text"]
    (folder / "model_index.json").write_text("{}")
    assert says("org/name") == ["image"]
    assert [says("zz:o/n"), says("nonsense")] == [None, None]
    assert says("builtin:helexa/tiny") == ["text"]


def test_weights_that_are_quantised_already_are_refused_by_their_id(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    quantise_to_file("tiny", tmp_path / "a" / "q", "q8_0")
    engine = EngineSection(sources={"disk": SourceConfig(path=str(tmp_path))})
    at = Sources.of(engine, {})
    with pytest.raises(UnsupportedModel, match="'disk:a/q' is quantised already"):
        plan("disk:a/q", at, quant="q4_k")
    assert plan("disk:a/q", at).format.kind == "dense_safetensors"
