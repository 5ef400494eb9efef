"""Each refusal of the error table by a daemon that comes into that state, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from helexa.neuron.config import AdmissionConfig, EngineSection
from helexa.neuron.discovery import Sampler
from helexa.neuron.nvml import Cards
from helexa.protocol.control import DeviceHealth, DeviceInfo
from tests.neuron.daemons import Daemon
from tests.neuron.plays import (
    CHAT,
    RESPONSES,
    TEXT,
    Cue,
    Troupe,
    X,
    ask,
    data,
    staged,
)
from tests.waiting import wait_until

HEAVY, MUTE, GPU = "play:o/heavy", "play:o/mute", "play:o/gpu"
MIB = 2**20
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
HASTY = AdmissionConfig(
    max_in_flight=1, max_queue_depth=4, max_wait_secs=0, max_per_principal=1, kv_max_wait_secs=0
)


@pytest.fixture(scope="module")
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Troupe:
    troupe = Troupe(tmp_path_factory.mktemp("models"))
    troupe.model("x")
    troupe.model("heavy", kv_bytes_per_token=MIB, kv_capacity_tokens=100)
    troupe.model("gpu", device="cuda:0")
    mute = troupe.model("mute")
    (mute / "chat_template.jinja").unlink()
    (mute / "chat_template.jinja").write_text("{{ '' }}")
    return troupe


@pytest.fixture(scope="module")
def hasty(troupe: Troupe) -> Iterator[Daemon]:
    """One seat, and nobody waits."""
    with staged(troupe, EngineSection(admission=HASTY), (X, HEAVY, MUTE)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def patient(troupe: Troupe) -> Iterator[Daemon]:
    """One seat, for which the others wait."""
    engine = EngineSection(admission=AdmissionConfig(max_in_flight=1))
    with staged(troupe, engine, models=()) as daemon:
        yield daemon


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def sent(daemon: Daemon, body: dict[str, Any], key: str = "") -> httpx.Response:
    """Ask on a connection of its own, as somebody who is known if there is a ``key``."""
    headers = {"x-helexa-account-id": "a", "x-helexa-key-id": key} if key else {}
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        return http.post(TEXT, json={"prompt": "Hi", **body}, headers=headers)


@contextmanager
def busy(
    daemon: Daemon, troupe: Troupe, pool: ThreadPoolExecutor, gate: str, **body: Any
) -> Iterator[Future[httpx.Response]]:
    """The only seat is taken inside the block, by the caller ``first``."""
    model = body.pop("model", X)
    play = troupe.play("a", Cue("wait", gate), "b", model=model)
    taken = pool.submit(sent, daemon, {**play, **body}, "first")
    wait_until(lambda: daemon.slot(model).load_report().in_flight == 1)
    try:
        yield taken
    finally:
        troupe.open(gate, model)
        taken.result()


def error_of(answer: httpx.Response, status: int, type: str, code: str) -> dict[str, Any]:
    """The error of an enveloped refusal, which has no ``param``."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (type, code, None)
    return error


@BOTH
@pytest.mark.parametrize("key", ["second", ""], ids=["known", "anonymous"])
def test_n058_no_seat_in_time(
    hasty: Daemon, troupe: Troupe, pool: ThreadPoolExecutor, *, key: str, stream: bool
) -> None:
    before = hasty.slot(X).load_report().rejected_timeout
    with busy(hasty, troupe, pool, f"seat{key}{stream}") as taken:
        answer = sent(hasty, {**troupe.play("x"), "stream": stream}, key)
    assert taken.result().status_code == 200
    error = error_of(answer, 503, "rate_limit_error", "rate_limit_exceeded")
    assert error["message"] == "model is busy (no seat became free in time); retry shortly"
    assert answer.headers["retry-after"] == "10"  # (5 − 1 + 1)·2: all places taken
    assert hasty.slot(X).load_report().rejected_timeout == before + 1


@BOTH
def test_n058_principal_cap(
    hasty: Daemon, troupe: Troupe, pool: ThreadPoolExecutor, stream: bool
) -> None:
    with busy(hasty, troupe, pool, f"cap{stream}"):
        answer = sent(hasty, {**troupe.play("x"), "stream": stream}, "first")
    error = error_of(answer, 429, "rate_limit_error", "rate_limit_exceeded")
    assert error["message"] == "too many concurrent requests for this key; retry shortly"
    assert answer.headers["retry-after"] == "2"
    assert hasty.slot(X).load_report().rejected_per_principal >= 1


@BOTH
def test_n058_n115_no_memory_in_time(
    hasty: Daemon, troupe: Troupe, pool: ThreadPoolExecutor, stream: bool
) -> None:
    slot, ids = hasty.slot(HEAVY), list(range(70, 80))
    before = slot.load_report().rejected_kv_timeout
    body = {"prompt": ids, "max_tokens": 50}
    with busy(hasty, troupe, pool, f"kv{stream}", model=HEAVY, **body):
        assert slot.load_report().kv_available_mb == 40
        answer = sent(hasty, {**troupe.play("x", model=HEAVY), **body, "stream": stream}, "second")
    error = error_of(answer, 503, "api_error", "insufficient_vram")
    assert (error["free_mb"], error["required_mb"]) == (40, 60)
    assert answer.headers["retry-after"] == "10"
    report = slot.load_report()
    assert (report.rejected_kv_timeout, report.kv_available_mb) == (before + 1, 100)


@BOTH
@pytest.mark.parametrize(
    ("path", "body"),
    [(TEXT, {"model": X, "prompt": ""}), (CHAT, {"model": MUTE}), (RESPONSES, {"model": MUTE})],
    ids=["text", "chat", "response"],
)
def test_n058_empty_prompt(hasty: Daemon, *, path: str, body: dict[str, Any], stream: bool) -> None:
    answer = ask(hasty, {**body, "stream": stream}, path=path)
    error = error_of(answer, 400, "invalid_request_error", "empty_prompt")
    assert error["message"]
    assert "retry-after" not in answer.headers


def test_n058_an_empty_list_of_ids(hasty: Daemon) -> None:
    answer = ask(hasty, {"model": X, "prompt": []}, path=TEXT)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def a_card(free_mb: int) -> Cards:
    """A host with one card, of which so much is free."""
    info = DeviceInfo(index=0, name="a card", vram_total_mb=9000, compute_capability="9.0")
    used_mb = 9000 - free_mb
    health = DeviceHealth(
        index=0, vram_used_mb=used_mb, vram_free_mb=free_mb, utilization_pct=0, temp_c=0
    )
    return Cards(devices=(info,), health=(health,), cuda_version="12.8")


def test_n058_memory_below_the_floor(troupe: Troupe) -> None:
    free = [9000]
    sampler = Sampler(read_cards=lambda: a_card(free[0]), interval_s=0.01)
    with staged(troupe, models=(GPU,), sampler=sampler) as daemon:
        for now_mb, status in ((9000, 200), (1000, 503), (1499, 503), (1500, 200)):
            free[0] = now_mb
            wait_until(lambda: free_on(daemon) == free[0])
            answers = [
                ask(daemon, {**troupe.play("x", model=GPU), "stream": stream})
                for stream in (False, True)
            ]
            assert [answer.status_code for answer in answers] == [status, status]
            for refused in answers if status == 503 else ():
                error = error_of(refused, 503, "api_error", "insufficient_vram")
                assert (error["free_mb"], error["required_mb"]) == (now_mb, 1500)
                assert refused.headers["retry-after"] == "5"


def free_on(daemon: Daemon) -> int:
    (device,) = daemon.http.get("/health").json()["devices"]
    return int(device["vram_free_mb"])


@BOTH
def test_n053_n058_unloaded_under_those_who_run_and_wait(
    patient: Daemon, troupe: Troupe, pool: ThreadPoolExecutor, stream: bool
) -> None:
    """A stream in its middle ends with the error; whoever has no head yet is refused."""
    patient.ensure(X)
    slot = patient.slot(X)
    play = troupe.play("a", Cue("wait", f"never{stream}"))
    runs = pool.submit(sent, patient, {**play, "stream": stream}, "first")
    wait_until(lambda: slot.load_report().in_flight == 1)
    wait_until(lambda: slot.model.status().running == 1)
    waits = [
        pool.submit(sent, patient, {**troupe.play("x"), "stream": also}, f"w{also}")
        for also in (False, True)
    ]
    wait_until(lambda: slot.load_report().queue_depth == 2)
    assert patient.unload(X).status_code == 409
    assert patient.unload(X, force=True).json() == {"status": "unloaded"}
    refused = [one.result() for one in waits]
    if stream:
        told = data(runs.result().text)
        assert '"code":"model_unloaded"' in told[-1]
        assert "[DONE]" not in told
    else:
        refused.append(runs.result())
    for answer in refused:
        error = error_of(answer, 503, "api_error", "model_unloaded")
        assert error["model_id"] == X
        assert answer.headers["retry-after"] == "5"


def test_n056_the_one_that_was_unloaded_is_not_there(patient: Daemon, troupe: Troupe) -> None:
    patient.ensure(X)
    patient.unload(X)
    answer = sent(patient, troupe.play("x"))
    assert error_of(answer, 404, "invalid_request_error", "model_not_found")["model_id"] == X


def test_n010_who_runs_on_after_the_drain(troupe: Troupe, pool: ThreadPoolExecutor) -> None:
    """A stream that is silent, and an answer that has no head yet."""
    engine = EngineSection(admission=AdmissionConfig(max_in_flight=3))
    with staged(troupe, engine, drain_s=0.2) as daemon:
        plays = [troupe.play("a", Cue("wait", "never")) for _ in range(2)]
        stream = pool.submit(sent, daemon, {**plays[0], "stream": True})
        whole = pool.submit(sent, daemon, plays[1])
        wait_until(lambda: daemon.slot(X).load_report().in_flight == 2)
        wait_until(lambda: daemon.slot(X).model.status().running == 2)
    told = data(stream.result().text)
    assert '"code":"shutting_down"' in told[-1]
    assert "[DONE]" not in told
    error_of(whole.result(), 503, "api_error", "shutting_down")
    assert whole.result().headers["retry-after"] == "15"
