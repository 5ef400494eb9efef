"""Models that are lost: what their requests are told, how they come back, when they do not."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

import helexa
from helexa.neuron.config import AdmissionConfig, EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import Runtime
from tests.neuron.daemons import HELLO, TINY, Daemon, endless, frames, running
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # each loads models, two or three times

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
COPY = "copy:o/tiny"
VICTIM = "copy:o/victim"
BUILTIN = Path(helexa.__file__).parent / "builtin" / "tiny"
SHORT: dict[str, Any] = {"model": TINY, "messages": HELLO, "max_tokens": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same model under other names."""
    root = tmp_path_factory.mktemp("models")
    for name in ("tiny", "victim"):
        shutil.copytree(BUILTIN, root / "o" / name)
    return root


@pytest.fixture(scope="module")
def daemon(files: Path) -> Iterator[Daemon]:
    """One seat per model; nobody waits for a model that was lost."""
    engine = EngineSection(
        admission=AdmissionConfig(max_in_flight=1, max_queue_depth=3),
        sources={"copy": SourceConfig(path=str(files))},
        resume_wait_secs=0,
        recovery_attempts=1,
    )
    models = (ModelSpec(model_id=TINY),)
    config = NeuronConfig(port=0, default_models=models, engine=engine)
    runtime = Runtime(step_timeout_s=6.0, poisoned_model=VICTIM)
    with running(config, runtime) as daemon:
        yield daemon


class Waiter(threading.Thread):
    """A request that waits for its answer in a thread of its own."""

    def __init__(self, daemon: Daemon, body: dict[str, Any]) -> None:
        super().__init__()
        self._daemon, self._body = daemon, body
        self.start()

    def run(self) -> None:
        with httpx.Client(base_url=self._daemon.url, timeout=60) as http:
            self._answer = http.post(TEXT, json=self._body)

    @property
    def answer(self) -> httpx.Response:
        self.join(60)
        return self._answer


def test_n136_kill_child(daemon: Daemon) -> None:
    slot = daemon.slot()
    losses = daemon.metric("model_recoveries_total", model=TINY, cause="exit")
    with daemon.asking(TEXT, endless(), "lost") as peer:
        wait_until(lambda: slot.model.status().running == 1)
        waiter = Waiter(daemon, endless(stream=False))
        wait_until(lambda: slot.load_report().queue_depth == 1)
        os.kill(daemon.child(), signal.SIGKILL)
        wait_until(lambda: daemon.status() == "recovering")
        refused = daemon.http.post(CHAT, json=SHORT)
        told = frames(peer)
    assert told.count('"code":"model_recovering"') == 1
    assert "[DONE]" not in told and '"usage"' not in told
    for answer in (refused, waiter.answer):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_recovering"
        assert 2 <= int(answer.headers["retry-after"]) <= 60
    text, fields = daemon.end("lost")
    assert (text, fields["code"]) == ("request failed", "model_recovering")
    wait_until(lambda: daemon.status() == "loaded", 100)
    assert daemon.metric("model_recoveries_total", model=TINY, cause="exit") == losses + 1
    assert daemon.http.post(CHAT, json=SHORT).status_code == 200


def test_n136_a_model_that_is_back_counts_afresh(daemon: Daemon) -> None:
    slot = daemon.slot()
    with ExitStack() as leaving:
        for index in range(3):
            leaving.enter_context(daemon.asking(TEXT, endless(), f"fill{index}"))
        wait_until(lambda: slot.load_report().queue_depth == 2)
        assert daemon.http.post(CHAT, json=SHORT).status_code == 503
        assert slot.load_report().rejected_anon_yield == 1
    os.kill(daemon.child(), signal.SIGKILL)
    wait_until(lambda: slot.state == "recovering")
    wait_until(lambda: slot.state == "loaded", 100)
    report = slot.load_report()
    assert (report.rejected_anon_yield, report.in_flight, report.queue_depth) == (0, 0, 0)
    assert report.max_in_flight == 1


def test_n137_step_deadline(daemon: Daemon) -> None:
    daemon.ensure(COPY)
    pid = daemon.child(COPY)
    with daemon.asking(TEXT, endless(model=COPY), "stopped") as peer:
        wait_until(lambda: daemon.slot(COPY).model.status().running == 1)
        os.kill(pid, signal.SIGSTOP)
        served = 0
        while not daemon.slot(COPY).host.recoveries:
            assert daemon.http.post(CHAT, json=SHORT).status_code == 200
            served += 1
            time.sleep(0.05)  # the processor is for whoever finds out and loads again
        assert "model_recovering" in frames(peer)
    assert served > 1
    assert not Path(f"/proc/{pid}").exists()
    assert daemon.end("stopped")[0] == "request failed"
    wait_until(lambda: daemon.status(COPY) == "loaded", 100)
    assert daemon.metric("model_recoveries_total", model=COPY, cause="deadline") == 1
    daemon.http.post("/models/unload", json={"model_id": COPY})


def test_n139_give_up(daemon: Daemon, files: Path) -> None:
    daemon.ensure(COPY)
    away = files / "away"
    (files / "o" / "tiny").rename(away)
    os.kill(daemon.child(COPY), signal.SIGKILL)
    wait_until(lambda: daemon.status(COPY) == "poisoned", 100)
    (info,) = [m for m in daemon.http.get("/models").json() if m["id"] == COPY]
    assert (info["servable"]["ok"], info["servable"]["reason"]) == (False, "recovery_failed")
    answer = daemon.http.post(CHAT, json={**SHORT, "model": COPY})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_recovering"
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert daemon.status(COPY) == "poisoned"  # the last try was just now
    assert daemon.metric("model_status", model=COPY, status="poisoned") == 1
    away.rename(files / "o" / "tiny")
    loaded = daemon.http.post("/models/load", json={"model_id": COPY})
    assert loaded.json() == {"status": "loaded"}
    assert daemon.http.post(CHAT, json={**SHORT, "model": COPY}).status_code == 200
    daemon.http.post("/models/unload", json={"model_id": COPY})


def test_n141_unload_recovering(daemon: Daemon) -> None:
    daemon.ensure(COPY)
    slot = daemon.slot(COPY)
    os.kill(daemon.child(COPY), signal.SIGKILL)
    wait_until(lambda: slot.state == "recovering")
    answer = daemon.http.post("/models/unload", json={"model_id": COPY})
    assert answer.json() == {"status": "unloaded"}
    assert daemon.status(COPY) is None
    assert slot.host.pid is None
    assert not any(("model", COPY) in labels for _, labels in daemon.metrics())


def test_a_model_that_is_back_has_the_memory_it_finds(daemon: Daemon) -> None:
    """Another model took some meanwhile: what was there before must not be handed out."""
    daemon.ensure(COPY)
    slot = daemon.slot(COPY)
    host = cast("Any", slot.host)
    make, before = host._make, report_of(daemon, COPY)

    def with_less(on_loss: Any) -> Any:
        made = make(on_loss)
        made._order = replace(made._order, config=replace(made._order.config, kv_memory_mb=2))
        return made

    host._make = with_less
    os.kill(daemon.child(COPY), signal.SIGKILL)
    wait_until(lambda: slot.state == "recovering")
    wait_until(lambda: slot.state == "loaded", 100)
    after = report_of(daemon, COPY)
    assert 0 < after["kv_budget_mb"] <= 2 < before["kv_budget_mb"]
    assert after["kv_available_mb"] == after["kv_budget_mb"]
    (info,) = [m for m in daemon.http.get("/models").json() if m["id"] == COPY]
    room = 2 * 2**20 // slot.model.info.kv_bytes_per_token
    assert info["limit"]["context"] <= room
    text = {"model": COPY, "prompt": "x"}
    assert daemon.http.post("/tokenize", json=text).json()["max_model_len"] <= room
    daemon.http.post("/models/unload", json={"model_id": COPY})


def report_of(daemon: Daemon, id: str) -> dict[str, Any]:
    """What the health of a daemon says of one model."""
    models = daemon.http.get("/health").json()["models"]
    found: dict[str, Any] = next(model for model in models if model["id"] == id)
    return found


def test_n138_debug_poison(daemon: Daemon) -> None:
    daemon.ensure(VICTIM)
    pid, body = daemon.child(VICTIM), {**SHORT, "model": VICTIM}
    headers = {"x-request-id": "first"}
    answer = daemon.http.post(CHAT, json={**body, "stream": True}, headers=headers)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_recovering"
    assert daemon.end("first")[0] == "request rejected"
    wait_until(lambda: daemon.metric("model_recoveries_total", model=VICTIM, cause="exit") == 1)
    wait_until(lambda: daemon.status(VICTIM) == "loaded", 100)
    assert daemon.child(VICTIM) != pid
    for stream in (True, False):
        assert daemon.http.post(CHAT, json={**body, "stream": stream}).status_code == 200
    daemon.http.post("/models/unload", json={"model_id": VICTIM})
