"""Routes that wait for nobody, loads that fail or take their time, and what requests count as."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from helexa.neuron.config import AdmissionConfig, EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.discovery import Sampler
from helexa.neuron.ids import ModelSpec
from helexa.neuron.nvml import Cards
from tests.neuron.daemon_process import best_s
from tests.neuron.daemons import HELLO, Daemon, started
from tests.neuron.plays import CHAT, TEXT, Cue, Troupe, X, ask, chat, staged, wait_for
from tests.waiting import noting_pauses, wait_until

FRAIL, SLOW = "play:o/frail", "play:o/slow"
BROKEN = Cards(unavailable="driver/library mismatch: reboot the host")
ROUTES = (
    *("/health", "/models", "/version", "/discovery", "/v1/models", "/metrics"),
    *("/models/play:o%2Fx/endpoint", "/models/play:o%2Fx/capabilities"),
    "/models/play:o%2Fslow/capabilities",  # a cold one
)
ANSWER_S = 0.1
ANONYMOUS = AdmissionConfig(max_in_flight=2, anon_max_in_flight=2, max_per_principal=1)


@pytest.fixture(scope="module")
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Troupe:
    troupe = Troupe(tmp_path_factory.mktemp("models"))
    for id in (X, FRAIL, SLOW):
        troupe.model(id.rpartition("/")[2])
    return troupe


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders whose models are refused for what they consist of."""
    root = tmp_path_factory.mktemp("repositories")
    for name, files in {
        "gguf": ["m-Q4_K_P.gguf", "m-Q6_K_P.gguf"],
        "dense": ["config.json", "model.safetensors"],
        "empty": ["README.md"],
    }.items():
        (root / "o" / name).mkdir(parents=True)
        for file in files:
            (root / "o" / name / file).write_text("{}")
    return root


@pytest.fixture(scope="module")
def daemon(troupe: Troupe, repositories: Path) -> Iterator[Daemon]:
    """Two seats, for anybody; what callers say of themselves is not believed."""
    sources = {"disk": SourceConfig(path=str(repositories))}
    engine = EngineSection(admission=ANONYMOUS, sources=sources)
    environ = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_CACHE": str(repositories / "none")}
    with staged(troupe, engine, environ=environ, trust_principal_headers=False) as daemon:
        yield daemon


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def too_slow(daemon: Daemon) -> dict[str, float]:
    """The routes that take longer than they may, each at the best of some tries.

    Pauses of this process, which the daemon runs in, are none of their doing.
    """

    def get(route: str) -> Callable[[], None]:
        return lambda: daemon.http.get(route).raise_for_status() and None

    with noting_pauses() as pauses:
        took = {route: best_s(get(route)) for route in ROUTES}
    return {route: s for route, s in took.items() if s > ANSWER_S + pauses.longest_s}


def test_n035_routes_answer_while_the_child_is_busy(daemon: Daemon, troupe: Troupe) -> None:
    """A step that does not end, a child that is stopped, and neither holds up a route."""
    play = troupe.play("a", Cue("hang", "busy"), "b")
    with daemon.asking(CHAT, {**play, "messages": HELLO}, "busy"):
        wait_until((troupe.of(X) / "once/busy").exists)
        assert too_slow(daemon) == {}
        os.kill(daemon.child(X), signal.SIGSTOP)
        assert too_slow(daemon) == {}
        os.kill(daemon.child(X), signal.SIGKILL)
        wait_until(lambda: daemon.metric("model_recoveries_total", model=X, cause="exit") == 1, 60)
        wait_for(daemon, "loaded")
        assert daemon.end("busy")[1]["finish_reason"] == "stop"


def test_n035_routes_answer_while_a_model_loads(
    daemon: Daemon, troupe: Troupe, pool: ThreadPoolExecutor
) -> None:
    slow = troupe.of(SLOW) / "slow"
    slow.touch()
    before = troupe.builds(SLOW)
    loading = pool.submit(post, daemon, "/models/load", model_id=SLOW)
    wait_until(lambda: troupe.builds(SLOW) > before, 60)
    assert too_slow(daemon) == {}
    assert daemon.models() == [X]
    slow.unlink()
    assert loading.result().json() == {"status": "loaded"}
    daemon.unload(SLOW)


def post(daemon: Daemon, path: str, **body: Any) -> httpx.Response:
    """Ask on a connection of its own."""
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        return http.post(path, json=body)


def test_n051_who_waited_for_a_load_that_failed_tries_itself(
    daemon: Daemon, troupe: Troupe, pool: ThreadPoolExecutor
) -> None:
    folder, lives = troupe.of(FRAIL), troupe.builds(FRAIL)
    (folder / "broken").write_text("once")
    (folder / "slow").touch()
    first = pool.submit(post, daemon, "/models/load", model_id=FRAIL)
    wait_until(lambda: troupe.builds(FRAIL) == lives + 1, 60)
    with daemon.asking("/models/load", {"model_id": FRAIL}, "second") as second:
        daemon.http.get("/health")  # answered after the other was read
        (folder / "slow").unlink()
        assert first.result().status_code == 400
        assert "the weights are unreadable today" in first.result().json()["error"]
        assert second.recv(16).startswith(b"HTTP/1.1 200")
    assert troupe.builds(FRAIL) == lives + 2
    daemon.unload(FRAIL)


FILES = ["m-q4_k_p.gguf", "m-q6_k_p.gguf"]
REFUSED: list[Any] = [
    pytest.param(
        {"model_id": "disk:o/gguf", "tensor_parallel": 2},
        {"kind": "tp_requires_safetensors", "tp_size": 2, "gguf_quants": FILES},
        id="gguf-on-two-cards",
    ),
    pytest.param(
        {"model_id": "disk:o/gguf", "quant": "q5_k_p"},
        {"kind": "quant_not_found", "requested": "q5_k_p", "available": FILES},
        id="quant-of-gguf",
    ),
    pytest.param(
        {"model_id": "disk:o/dense", "quant": "nope"},
        {"kind": "quant_not_found", "requested": "nope"},
        id="quant-of-dense",
    ),
    pytest.param({"model_id": "disk:o/empty"}, {"kind": "empty_repo"}, id="empty"),
    pytest.param({"model_id": "huggingface:o/n"}, {"kind": "repo_fetch_failed"}, id="no-hub"),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_n046_refusals_as_bodies(
    daemon: Daemon, spec: dict[str, Any], said: dict[str, Any]
) -> None:
    answer = daemon.post("/models/load", **spec)
    assert answer.status_code == 422
    (error,) = answer.json().values()
    assert error["model_id"] == spec["model_id"]
    assert {key: error[key] for key in said} == said
    assert daemon.models() == [X]


def test_n125_callers_that_are_not_believed(daemon: Daemon, troupe: Troupe) -> None:
    """Both are anonymous, so that no cap of one caller holds."""
    headers = {"x-helexa-account-id": "a", "x-helexa-key-id": "k"}
    play = troupe.play("a", Cue("wait", "anonymous"), "b")
    with ThreadPoolExecutor(1) as pool:
        body = {**play, "prompt": "x"}
        first = pool.submit(httpx.post, f"{daemon.url}{TEXT}", json=body, headers=headers)
        wait_until(lambda: daemon.slot(X).load_report().anon_in_flight == 1)
        named = {**headers, "x-request-id": "named"}
        second = daemon.http.post(TEXT, json={**troupe.play("x"), "prompt": "x"}, headers=named)
        troupe.open("anonymous")
        assert (first.result().status_code, second.status_code) == (200, 200)
    assert daemon.end("named")[1]["principal"] == "anonymous"
    assert daemon.slot(X).load_report().rejected_per_principal == 0


def test_n142_what_an_answer_counts(daemon: Daemon, troupe: Troupe) -> None:
    names = ("prompt", "completion", "reasoning", "cached_prompt")
    told = dict(cached=8, timing=(100.0, 500.0, 0.0))

    def counted() -> list[float]:
        return [daemon.metric(f"{name}_tokens_total", model=X) for name in names]

    def rates() -> tuple[float, float]:
        count, total = "tokens_per_second_count", "tokens_per_second_sum"
        return daemon.metric(count, model=X), daemon.metric(total, model=X)

    before, (answers, speed) = counted(), rates()
    said = chat(daemon, stream=True, **troupe.play("<think>", "a", "b", "</think>", "c", **told))
    wait_until(lambda: rates()[0] == answers + 1)
    counts = [now - then for now, then in zip(counted(), before, strict=True)]
    assert counts == [said.usage["prompt_tokens"], 5, 2, 8]
    assert rates()[1] - speed == pytest.approx(8.0)  # 4 tokens after the first in half a second
    metrics = daemon.metrics()
    model = ("model", X)
    gauges = {name for name, labels in metrics if model in labels and len(labels) == 1}
    assert gauges >= {
        *("prefix_cache_bytes", "prefix_cache_lookups_total", "prefix_cache_hits_total"),
        *("model_in_flight", "model_kv_budget_mb", "model_vram_used_mb", "model_load_seconds"),
    }


def test_n027_slow_reader(daemon: Daemon, troupe: Troupe) -> None:
    """Two seats: who reads nothing keeps neither his seat nor the other's answer waiting."""
    plain = {"model": X, "prompt": "x", "max_tokens": 1500, "stream": True}
    with daemon.asking(TEXT, plain, "reads nothing"):
        said = ask(daemon, {**plain, "max_tokens": 300}, path=TEXT)
        assert said.text.endswith("data: [DONE]\n\n")
        wait_until(lambda: daemon.slot(X).load_report().in_flight == 0, 30)


def test_n029_n031_a_host_that_reports_no_cpu() -> None:
    config = NeuronConfig(port=0, report_cpu_device=False, harnesses=())
    with started(config, sampler=Sampler(read_cards=Cards)) as at:
        health = at.http.get("/health").json()
        assert at.http.get("/discovery").json()["devices"] == []
        assert (health["devices"], health["models"]) == ([], [])
        assert health["uptime_secs"] <= 5
        assert type(health["uptime_secs"]) is int
        assert at.post("/tokenize", model=X, prompt="x").status_code == 503
        told = {"error": "harness 'candle' is not enabled on this neuron"}
        assert at.post("/v1/detokenize", model=X, tokens=[1]).json() == told


def test_n032_a_broken_driver_fails_what_was_to_be_loaded() -> None:
    specs = (ModelSpec(model_id=X), ModelSpec(model_id=FRAIL))
    config = NeuronConfig(port=0, default_models=specs)
    with started(config, sampler=Sampler(read_cards=lambda: BROKEN)) as at:
        wait_until(lambda: at.http.get("/health").json()["activation"]["state"] == "ready")
        activation = at.http.get("/health").json()["activation"]
        assert [failed["model_id"] for failed in activation["failed"]] == [X, FRAIL]
        assert all("driver/library mismatch" in one["error"] for one in activation["failed"])
        assert (activation["completed"], activation["pending"]) == ([], [])


def test_n034_routes_answer_while_the_driver_hangs() -> None:
    go, asked = threading.Event(), threading.Event()
    cards = iter([Cards(cuda_version="12.8")])

    def read() -> Cards:
        if (known := next(cards, None)) is not None:
            return known
        asked.set()
        go.wait(30)
        return Cards()

    sampler = Sampler(read_cards=read, interval_s=0.01)
    try:
        with started(NeuronConfig(port=0, harnesses=()), sampler=sampler) as at:
            assert asked.wait(20)
            began = time.monotonic()
            found = [at.http.get(route).status_code for route in ROUTES[:6]]
            assert time.monotonic() - began < len(found)
            assert found == [200] * len(found)
            assert at.http.get("/discovery").json()["cuda_version"] == "12.8"
    finally:
        go.set()


def test_n125_a_bearer_guards_every_route() -> None:
    config = NeuronConfig(port=0, harnesses=(), auth_env="KEY")
    with started(config, {"KEY": "s3cret"}) as at:
        known = {"authorization": "Bearer s3cret"}
        for route in (*ROUTES[:6], "/models/o%2Fn/endpoint", "/models/o%2Fn/capabilities"):
            refused = at.http.get(route)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                *(401, "invalid_api_key"),
            )
            assert at.http.get(route, headers=known).status_code != 401
        for route in ("/models/load", "/models/unload", "/tokenize", CHAT):
            assert at.post(route).status_code == 401
            assert at.http.post(route, json={}, headers=known).status_code != 401
