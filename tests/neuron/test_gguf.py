"""GGUF models, loaded by a neuron from folders and from a hub of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.engine.checkpoint.gguf_files import plain, write_gguf
from tests.neuron.daemons import TINY, Daemon, started
from tests.neuron.hubs import TINY_FOLDER

QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model in one file, with its tokenizer and template."""
    path = tmp_path_factory.mktemp("gguf") / "tiny-F16.gguf"
    return write_gguf(TINY_FOLDER, path, plain(np.float16), tokenizer=True)


@pytest.fixture
def hub(file: Path) -> Iterator[FakeHub]:
    fake = FakeHub({"tiny-F16.gguf": file.read_bytes(), "tiny-BF16.gguf": b"not fetched"})
    with ExitStack() as servers:
        fake.endpoint = servers.enter_context(serving(fake))
        fake.store = servers.enter_context(serving(fake))
        yield fake


def answer(at: Daemon, model: str) -> str:
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 40}
    text: str = at.post("/v1/chat/completions", **body).json()["choices"][0]["message"]["content"]
    return text


def test_files_and_folders_of_a_local_source(file: Path, tmp_path: Path) -> None:
    (tmp_path / "org/folder").mkdir(parents=True)
    shutil.copy(file, tmp_path / "org/one.gguf")
    shutil.copy(file, tmp_path / "org/folder/tiny-F16.gguf")
    (tmp_path / "org/folder/a-Q4_K.gguf").write_bytes(b"not read")
    source = SourceConfig(path=str(tmp_path))
    config = NeuronConfig(port=0, engine=EngineSection(sources={"disk": source}))
    with started(config, {"NEURON_WARM_SPARE": "1"}) as at:
        assert at.load(TINY).json() == {"status": "loaded"}
        expected = answer(at, TINY)
        assert at.unload(TINY).json() == {"status": "unloaded"}
        for id, asked in (("disk:org/one.gguf", {}), ("disk:org/folder", {"quant": "f16"})):
            assert at.load(id, **asked).json() == {"status": "loaded"}
            assert answer(at, id) == expected
            assert at.unload(id).json() == {"status": "unloaded"}
        refused = at.load("disk:org/folder", quant="q9")
        assert (refused.status_code, refused.json()["error"]["kind"]) == (422, "quant_not_found")


def test_e090_a_file_of_a_hub_is_chosen_and_never_split(hub: FakeHub, tmp_path: Path) -> None:
    source = SourceConfig(endpoint=f"{hub.endpoint}/", cache_dir=str(tmp_path))
    config = NeuronConfig(port=0, engine=EngineSection(sources={"own": source}))
    id = "own:org/name"
    with started(config) as at:
        refused = at.load(id, quant="f16", tensor_parallel=2)
        assert refused.status_code == 422
        assert refused.json()["error"]["kind"] == "tp_requires_safetensors"
        assert {path for _, path, _, _ in hub.requests} == {"/api/models/org/name"}
        assert at.load(id, quant="tiny-f16").json() == {"status": "loaded"}
        assert "42" in answer(at, id)
    fetched = [path.name for path in tmp_path.glob("models--org--name/snapshots/*/*")]
    assert fetched == ["tiny-F16.gguf"]
