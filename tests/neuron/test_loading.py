"""Models come and go over HTTP: one child each, callers that leave or wait, loads cut short."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from tests.neuron.daemons import TINY, Daemon, started
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
TINY_FOLDER = ROOT / "src/helexa/builtin/tiny"
OTHER = "disk:org/name"
ENDLESS = {"prompt": "Once", "max_tokens": 3000, "stream": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    models = tmp_path_factory.mktemp("models")
    (models / "org").mkdir()
    (models / "org/name").symlink_to(TINY_FOLDER)
    source = SourceConfig(path=str(models))
    config = NeuronConfig(port=0, engine=EngineSection(sources={"disk": source}))
    environ = {"HF_ENDPOINT": "http://127.0.0.1:1", "NEURON_WARM_SPARE": "1"}
    with started(config, environ) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_loaded(at: Daemon) -> Iterator[None]:
    yield
    for id in at.models():
        at.unload(id, force=True)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def said(answers: list[Future[httpx.Response]]) -> list[tuple[int, Any]]:
    return [(answer.result().status_code, answer.result().json()) for answer in answers]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model_id": "o/n", "harness": "not-candle"}, 400, ["unknown harness 'not-candle'"]),
        ({"model_id": "zz:o/n"}, 400, ["'zz'", "builtin, disk, huggingface"]),
        (
            {"model_id": TINY, "devices": [0, 1], "tensor_parallel": 1},
            400,
            ["devices lists 2 entries, tensor_parallel is 1"],
        ),
        ({"model_id": "x"}, 400, ["model id 'x' has no `/`"]),
        ({"model_id": "builtin:other/tiny"}, 400, ["'builtin:other/tiny'"]),
        ({"model_id": OTHER, "quant": "nope"}, 422, []),
        ({"model_id": "disk:org/absent"}, 422, []),
    ],
    ids=["harness", "source", "devices", "id", "package", "quant", "no folder"],
)
def test_n048_load_refusals(at: Daemon, body: dict[str, Any], status: int, says: list[str]) -> None:
    answer = at.http.post("/models/load", json=body)
    assert answer.status_code == status
    told = answer.json()["error"]
    assert all(text in told for text in says)
    if status == 422:
        assert told["kind"] in ("quant_not_found", "repo_fetch_failed")
        assert told["model_id"] == body["model_id"]
    assert at.models() == []


@pytest.mark.parametrize(
    "body",
    [[], {}, {"model_id": 3}, {"model_id": "o/n", "devices": 0}, {"model_id": TINY, "kv_mb": 0}],
)
def test_a_load_of_the_wrong_shape(at: Daemon, body: Any) -> None:
    answer = at.http.post("/models/load", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_request_body"


def test_n050_load_lifecycle(at: Daemon) -> None:
    sent = {"model_id": TINY, "harness": "candle", "kv_mb": 64}
    loaded = at.http.post("/models/load", json={**sent, "quant": None, "odd": 1})
    assert (loaded.status_code, loaded.json()) == (200, {"status": "loaded"})
    (info,) = at.http.get("/models").json()
    assert (info["id"], info["status"], info["spec"]) == (TINY, "loaded", sent)
    again = at.load(TINY)
    assert (again.status_code, again.json()) == (400, {"error": f"model '{TINY}' already loaded"})
    assert at.unload(TINY).json() == {"status": "unloaded"}
    assert at.http.get("/models").json() == []
    assert at.unload(TINY).status_code == 404


def test_n024_n037_n052_a_loaded_model_is_found_by_its_names(at: Daemon) -> None:
    assert at.load(OTHER).status_code == 200
    for name in ("disk:org%2Fname", "org%2Fname", "disk%3Aorg%2Fname"):
        found = at.http.get(f"/models/{name}/endpoint")
        assert found.json() == {"url": f"http://localhost:{at.neuron.port}"}
        found = at.http.get(f"/models/{name}/capabilities")
        assert found.json() == {"capabilities": ["text"]}
    for what in ("endpoint", "capabilities"):
        missing = at.http.get(f"/models/org%2Fother/{what}")
        assert missing.status_code == 404
        assert "org/other" in missing.json()["error"]
    # A bare id is another model than the one that happens to be found by it.
    assert at.load("org/name").json()["error"]["kind"] == "repo_fetch_failed"
    answer = at.post("/v1/completions", model="org/name", prompt="Once", max_tokens=2)
    assert answer.status_code == 200
    assert at.unload("org/name").status_code == 200


def test_n037_cold_models_are_answered_from_the_disk(at: Daemon) -> None:
    cold = at.http.get("/models/disk:org%2Fname/capabilities")
    assert cold.json() == {"capabilities": ["text"]}
    assert at.http.get("/models/zz:o%2Fn/capabilities").status_code == 404


def test_n051_one_child_for_two_callers(at: Daemon, pool: ThreadPoolExecutor) -> None:
    answers = said([pool.submit(at.load, TINY) for _ in range(2)])
    assert sorted(answers, key=str) == [
        (200, {"status": "loaded"}),
        (400, {"error": f"model '{TINY}' already loaded"}),
    ]
    assert at.models() == [TINY]


def test_n051_a_model_does_not_wait_for_another(at: Daemon, pool: ThreadPoolExecutor) -> None:
    child = stopped_child(at)
    slow = pool.submit(at.load, TINY)
    wait_until(lambda: at.neuron._nursery._spare is None, 30)
    assert at.load(OTHER).status_code == 200
    assert not slow.done()
    os.kill(child, signal.SIGCONT)
    assert said([slow]) == [(200, {"status": "loaded"})]
    assert at.models() == [TINY, OTHER]
    assert at.child(TINY) != at.child(OTHER)


def stopped_child(at: Daemon) -> int:
    """The process that the next load will be given, stopped: that load takes as long as we like."""
    nursery = at.neuron._nursery
    wait_until(lambda: nursery._spare is not None, 30)
    assert nursery._spare is not None
    os.kill(nursery._spare.pid, signal.SIGSTOP)
    return nursery._spare.pid


def test_n051_a_load_goes_on_without_its_caller(at: Daemon) -> None:
    child = stopped_child(at)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{at.url}/models/load", json={"model_id": TINY}, timeout=0.5)
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: at.models() == [TINY], 60)


def test_n053_unload_of_nothing(at: Daemon) -> None:
    for body in ({}, {"model_id": 3}, {"model_id": ""}, []):
        answer = at.http.post("/models/unload", json=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "missing model_id"})
    for id in (TINY, "zz:o/n", "x"):
        assert at.unload(id).status_code == 404


def test_n053_unload_of_a_model_that_answers(at: Daemon) -> None:
    at.load(TINY)
    with at.http.stream("POST", "/v1/completions", json={"model": TINY, **ENDLESS}) as stream:
        lines = stream.iter_lines()
        assert stream.status_code == 200
        next(lines)
        refused = httpx.post(f"{at.url}/models/unload", json={"model_id": TINY})
        told = {"error": f"cannot unload '{TINY}': inference still in flight"}
        assert (refused.status_code, refused.json()) == (409, told)
        forced = httpx.post(
            f"{at.url}/models/unload", json={"model_id": TINY, "force": True}, timeout=60
        )
        assert forced.json() == {"status": "unloaded"}
        last = [line for line in lines if line][-1]
    assert '"code":"model_unloaded"' in last


def test_n053_unload_of_a_model_that_loads(at: Daemon, pool: ThreadPoolExecutor) -> None:
    child = stopped_child(at)
    loading = pool.submit(at.load, TINY)
    wait_until(lambda: at.neuron._nursery._spare is None, 30)
    assert at.models() == []
    assert at.unload("helexa/tiny").json() == {"status": "unloaded"}
    assert not Path(f"/proc/{child}").exists()
    assert said([loading]) == [(400, {"error": f"load of '{TINY}' was cancelled"})]
    assert at.load(TINY).status_code == 200


def test_n054_memory_back(at: Daemon) -> None:
    """The second time, as by then everything that stays has been imported."""
    at.load(TINY)
    at.unload(TINY)
    before_mb = resident_mb(os.getpid())
    at.load(TINY)
    child = at.child(TINY)
    assert resident_mb(child) > 50
    assert at.unload(TINY).status_code == 200
    assert not Path(f"/proc/{child}").exists()
    assert resident_mb(os.getpid()) - before_mb < 20
    left = {other for other in children_of(os.getpid()) if commands(other)}
    assert len(left) <= 1  # the one that waits for the next model


def resident_mb(pid: int) -> float:
    """What a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def commands(pid: int) -> bool:
    return b"helexa.engine.process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
