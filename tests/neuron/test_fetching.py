"""Models from registries and folders of an operator's own, loaded over HTTP."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from helexa.errors import EngineClosed, LoadError
from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.fetching import LoadWatch, fetch
from helexa.neuron.ids import ModelId
from helexa.neuron.sources import Source
from tests.engine.checkpoint.conftest import FakeHub
from tests.neuron.daemons import Daemon, started
from tests.neuron.hubs import TINY_FOLDER, hub_with_tiny
from tests.waiting import wait_until

ID = "own:org/name"
NOWHERE = "http://127.0.0.1:1"
HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with hub_with_tiny() as hub:
        yield hub


def own_hub(endpoint: str, cache: Path, **engine: float) -> NeuronConfig:
    """A configuration with one registry of one's own."""
    source = SourceConfig(endpoint=f"{endpoint}/", auth_env="OWN_TOKEN", cache_dir=str(cache))
    return NeuronConfig(port=0, engine=EngineSection(sources={"own": source}, **engine))  # type: ignore[arg-type]  # numbers only


def answers(at: Daemon, id: str) -> bool:
    answer = at.post("/v1/chat/completions", model=id, messages=HELLO, temperature=0, max_tokens=2)
    return answer.status_code == 200


def test_a_registry_is_asked_with_its_token_and_fills_its_cache(
    hub: FakeHub, tmp_path: Path
) -> None:
    environ = {"OWN_TOKEN": "secret", "HF_TOKEN": "not for you", "HF_ENDPOINT": NOWHERE}
    with started(own_hub(hub.endpoint, tmp_path), environ) as at:
        loaded = at.load(ID, revision="v1")
        assert loaded.json() == {"status": "loaded"}
        assert answers(at, ID)
        assert at.http.get("/models").json()[0]["spec"] == {"model_id": ID, "revision": "v1"}
    listings = [request for request in hub.requests if request[1].startswith("/api/")]
    assert listings == [("GET", "/api/models/org/name/revision/v1", "", "Bearer secret")]
    tokens = {token for _, path, _, token in hub.requests if not path.startswith("/store/")}
    assert tokens == {"Bearer secret"}
    assert {token for _, path, _, token in hub.requests if path.startswith("/store/")} == {""}
    assert (tmp_path / "models--org--name/refs/v1").is_file()


def test_n047_a_cache_that_is_filled_needs_no_registry(hub: FakeHub, tmp_path: Path) -> None:
    source = Source("own", endpoint=hub.endpoint, cache_dir=str(tmp_path))
    fetch(ModelId("own", "org", "name"), source, "main", {}, watch=LoadWatch(ID, 60))
    with started(own_hub(NOWHERE, tmp_path)) as at:
        cold = at.http.get("/models/own:org%2Fname/capabilities")
        assert cold.json() == {"capabilities": ["text"]}
        absent = at.load("own:org/other").json()["error"]
        assert (absent["kind"], absent["model_id"]) == ("repo_fetch_failed", "own:org/other")
        assert at.load(ID).json() == {"status": "loaded"}
        assert answers(at, "org/name")


def test_hf_hub_offline_leaves_the_hub_alone_and_no_other(hub: FakeHub, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "1"}
    with started(own_hub(hub.endpoint, tmp_path / "own"), environ) as at:
        absent = at.load("org/name").json()["error"]
        assert absent["kind"] == "repo_fetch_failed"
        assert "offline" in absent["cause"]
        assert hub.requests == []
        assert at.load(ID).json() == {"status": "loaded"}
    shutil.copytree(tmp_path / "own", tmp_path / "hub")
    hub.requests.clear()
    config = NeuronConfig(port=0, engine=EngineSection(hf_cache=str(tmp_path / "hub")))
    with started(config, environ) as at:
        assert at.load("org/name").json() == {"status": "loaded"}
        assert answers(at, "org/name")
    assert hub.requests == []


def test_a_folder_of_models_needs_no_network(tmp_path: Path) -> None:
    shutil.copytree(TINY_FOLDER, tmp_path / "org/deep/name")
    engine = EngineSection(
        sources={"disk": SourceConfig(path=str(tmp_path))}, default_source="disk"
    )
    environ = {"HF_ENDPOINT": NOWHERE, "NEURON_USE_CHAT_TEMPLATE": "off"}
    with started(NeuronConfig(port=0, engine=engine), environ) as at:
        assert at.load("org/deep/name").json() == {"status": "loaded"}
        asked = at.post("/tokenize", model="disk:org/deep/name", messages=HELLO).json()
        text = at.post("/detokenize", model="org/deep/name", tokens=asked["tokens"]).json()
    assert text == {"prompt": "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"}


def test_what_has_no_tokenizer_is_refused_before_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files["tokenizer.json"]
    with started(own_hub(hub.endpoint, tmp_path)) as at:
        told = at.load(ID)
    assert told.status_code == 400
    assert "'own:org/name' has no tokenizer.json" in told.json()["error"]
    assert hub.asked("config.json") or "config.json" in str(hub.requests)
    assert not [request for request in hub.requests if "safetensors" in request[1]]


def test_n053_a_download_is_cancelled_by_unload(hub: FakeHub, tmp_path: Path) -> None:
    hub.gate = threading.Event()
    with started(own_hub(hub.endpoint, tmp_path)) as at, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(at.load, ID)
        wait_until(lambda: bool(hub.asked("model.safetensors")), 30)
        assert at.unload("org/name").json() == {"status": "unloaded"}
        told = loading.result()
        assert (told.status_code, told.json()) == (400, {"error": f"load of '{ID}' was cancelled"})
        assert at.unload(ID).status_code == 404


def test_a_download_that_stands_still_fails(hub: FakeHub, tmp_path: Path) -> None:
    hub.gate = threading.Event()
    with started(own_hub(hub.endpoint, tmp_path, load_stall_secs=0.5)) as at:
        told = at.load(ID)
    assert told.status_code == 400
    assert "made no progress for 0.5 seconds" in told.json()["error"]


def test_a_cancelled_load_says_so_whatever_its_thread_makes_of_it() -> None:
    """Both may end in the same turn of the event loop."""
    watch = LoadWatch(ID, 60)
    stopped = threading.Event()

    def load() -> None:
        stopped.wait(30)
        raise LoadError("the process that loaded the model was killed by SIGKILL")

    async def cancelled() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.run, load)
            await anyio.lowlevel.checkpoint()
            watch.cancel()
            stopped.set()

    with pytest.raises(ExceptionGroup) as ended:
        anyio.run(cancelled)
    (error,) = ended.value.exceptions
    assert isinstance(error, EngineClosed)
    assert str(error) == f"load of '{ID}' was cancelled"


def test_a_cancelled_fetch_keeps_what_has_arrived(hub: FakeHub, tmp_path: Path) -> None:
    source = Source("own", endpoint=hub.endpoint, cache_dir=str(tmp_path))
    watch = LoadWatch(ID, 60)
    watch.cancel()
    id = ModelId("own", "org", "name")
    with pytest.raises(EngineClosed):
        fetch(id, source, "main", {}, watch=watch)
    fetch(id, source, "main", {}, watch=LoadWatch(ID, 60))


def test_names_with_slashes_are_asked_for_and_cached(tmp_path: Path, hub: FakeHub) -> None:
    id = ModelId("own", "org", "name/part")
    source = Source("own", endpoint=hub.endpoint, cache_dir=str(tmp_path))
    place = fetch(id, source, "main", {}, watch=LoadWatch(str(id), 60))
    assert str(place) == "own:org/name/part"
    assert (tmp_path / "models--org--name--part/refs/main").is_file()
