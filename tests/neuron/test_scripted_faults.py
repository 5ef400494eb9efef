"""What one request's misfortune costs, and what a model's does, over HTTP."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from helexa.neuron.api import answering
from helexa.neuron.config import AdmissionConfig, EngineSection, SourceConfig
from tests.engine.checkpoint.conftest import FakeHub
from tests.neuron.daemons import HELLO, Daemon
from tests.neuron.hubs import hub_with_tiny
from tests.neuron.plays import (
    CHAT,
    RESPONSES,
    TEXT,
    Cue,
    Troupe,
    X,
    ask,
    chat,
    data,
    staged,
    wait_for,
)
from tests.waiting import wait_until

STORM, FRAIL, FETCHED, VICTIM = "play:o/storm", "play:o/frail", "own:org/name", "play:o/victim"
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def troupe(tmp_path_factory: pytest.TempPathFactory) -> Troupe:
    troupe = Troupe(tmp_path_factory.mktemp("models"))
    for id in (X, STORM, FRAIL, VICTIM):
        troupe.model(id.rpartition("/")[2])
    return troupe


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with hub_with_tiny() as hub:
        yield hub


@pytest.fixture(scope="module")
def daemon(
    troupe: Troupe, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """Nobody waits for a model that was lost; each is tried again once."""
    cache = str(tmp_path_factory.mktemp("cache"))
    engine = EngineSection(
        admission=AdmissionConfig(max_in_flight=2, anon_max_in_flight=2),
        sources={"own": SourceConfig(endpoint=hub.endpoint, cache_dir=cache)},
        resume_wait_secs=0,
        recovery_attempts=1,
    )
    with staged(troupe, engine, environ={"NEURON_DEBUG_POISON": VICTIM}) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def healthy(daemon: Daemon, troupe: Troupe) -> Iterator[None]:
    """After each test the model serves; an answer that was completed ends a storm."""
    yield
    # its status may be that of before a loss that a client has just been told of
    wait_until(lambda: ask(daemon, troupe.play("well")).status_code == 200, 60)
    wait_for(daemon, "loaded")


def error_of(answer: httpx.Response) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks before the error that a stream ended with, and that error."""
    assert answer.status_code == 200
    *said, last = [json.loads(part) for part in data(answer.text)]
    assert not any("error" in chunk or "usage" in chunk for chunk in said)
    assert all(c["finish_reason"] is None for chunk in said for c in chunk["choices"])
    return said, last["error"]


def losses(daemon: Daemon, cause: str, model: str = X) -> float:
    return daemon.metric("model_recoveries_total", model=model, cause=cause)


def test_n082_a_stream_whose_model_dies(daemon: Daemon, troupe: Troupe) -> None:
    play = troupe.play("Once", Cue("exit", "n082"), "more")
    answer = ask(daemon, {**play, "stream": True}, request_id="n082")
    said, error = error_of(answer)
    assert [c["delta"] for chunk in said for c in chunk["choices"]][:1] == [{"role": "assistant"}]
    assert "".join(c["delta"].get("content", "") for d in said for c in d["choices"]) == "Once"
    assert (error["code"], error["type"], error["model_id"]) == ("model_recovering", "api_error", X)
    text, fields = daemon.end("n082")
    assert (text, fields["code"]) == ("request failed", "model_recovering")
    assert fields["completion_tokens"] > 0


def test_n082_a_whole_answer_whose_model_dies(daemon: Daemon, troupe: Troupe) -> None:
    play = troupe.play("Once", Cue("exit", "n082-whole"), "more")
    answer = ask(daemon, play, request_id="n082-whole")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["model_id"]) == ("model_recovering", "api_error", X)
    assert 2 <= int(answer.headers["retry-after"]) <= 60
    text, fields = daemon.end("n082-whole")
    assert (text, fields["status"], fields["code"]) == ("request rejected", 503, "model_recovering")


def test_n073_nothing_but_the_head(daemon: Daemon, troupe: Troupe) -> None:
    play = troupe.play(Cue("exit", "n073"), "more")
    said, error = error_of(ask(daemon, {**play, "stream": True}))
    deltas = [choice["delta"] for chunk in said for choice in chunk["choices"]]
    assert (deltas, error["code"]) == ([{"role": "assistant"}], "model_recovering")


@pytest.mark.parametrize("said", ["Once", ""], ids=["after-text", "before-any-event"])
def test_n101_a_response_that_does_not_finish(daemon: Daemon, troupe: Troupe, said: str) -> None:
    play = troupe.play(said, Cue("exit", f"n101{said}"), "more")
    answer = ask(daemon, {**play, "stream": True}, path=RESPONSES)
    assert answer.status_code == 200
    events = [json.loads(part) for part in data(answer.text)]
    names = [event["type"].removeprefix("response.") for event in events]
    assert [names[0], names[1], names[-1]] == ["created", "in_progress", "failed"]
    assert len(names) == 3 if not said else "output_text.delta" in names
    assert not {"completed", "output_item.done"} & set(names)
    response = events[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "model_recovering")
    assert response["output"] == []
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


ERRORS: list[Any] = [
    pytest.param("nan", 500, None, "not finite", id="nan"),
    pytest.param("shape", 500, None, "the shapes do not fit", id="shape"),
    pytest.param("oom", 503, "insufficient_vram", "", id="oom"),
]


@BOTH
@pytest.mark.parametrize(("kind", "status", "code", "says"), ERRORS)
def test_n140_benign(
    daemon: Daemon,
    troupe: Troupe,
    *,
    stream: bool,
    kind: str,
    status: int,
    code: str | None,
    says: str,
) -> None:
    """A neighbour that runs the while gets its whole answer from the same process."""
    name, lives = f"{kind}{stream}", troupe.builds()
    before = daemon.metric("request_errors_total", model=X, code=code or "internal")
    neighbour = troupe.play("a", Cue("wait", name), "b")
    with daemon.asking(CHAT, {**neighbour, "messages": HELLO}, name):
        wait_until(lambda: daemon.slot(X).load_report().in_flight == 1)
        answer = ask(
            daemon, {**troupe.play("x", Cue(kind)), "stream": stream}, request_id=f"bad-{name}"
        )
        troupe.open(name)
        assert daemon.end(name)[1]["finish_reason"] == "stop"
    error = error_of(answer)[1] if stream else answer.json()["error"]
    if not stream:
        assert answer.status_code == status
        assert answer.headers.get("retry-after") == ("5" if code else None)
    assert (error["type"], error["code"], error["param"]) == ("api_error", code, None)
    assert says in error["message"]
    if code:
        floor = daemon.slot(X).limits.rules.floor_mb
        assert (error["free_mb"], error["required_mb"]) == (3, floor)
    assert (daemon.status(X), troupe.builds()) == ("loaded", lives)
    wait_until(
        lambda: daemon.metric("request_errors_total", model=X, code=code or "internal") > before
    )


def test_n140_n143_an_exception_in_a_handler(
    daemon: Daemon, troupe: Troupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*anything: Any) -> Any:
        raise ZeroDivisionError("kaboom") from ValueError("because")

    lives = troupe.builds()
    with monkeypatch.context() as patch:
        patch.setattr(answering, "placed", broken)
        answer = ask(daemon, troupe.play("x"), request_id="handler")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("api_error", None, None)
    assert "kaboom" in error["message"]
    assert "because" in error["message"]
    assert "retry-after" not in answer.headers
    text, fields = daemon.end("handler")
    assert (text, fields.get("code")) == ("request failed", None)
    assert "kaboom" in fields["detail"]
    assert (daemon.status(X), troupe.builds()) == ("loaded", lives)


@pytest.mark.parametrize(("kind", "cause"), [("device", "device"), ("memory", "oom")])
def test_n136_a_device_that_fails_is_a_loss(
    daemon: Daemon, troupe: Troupe, kind: str, cause: str
) -> None:
    lives, before = troupe.builds(), losses(daemon, cause)
    answer = ask(daemon, troupe.play("x", Cue(kind, kind)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_recovering")
    wait_until(lambda: troupe.builds() == lives + 1, 60)
    wait_for(daemon, "loaded")
    assert losses(daemon, cause) == before + 1


def test_a_storm_of_losses_is_given_up(daemon: Daemon, troupe: Troupe) -> None:
    daemon.ensure(STORM)
    for after in ("loaded", "loaded", "poisoned"):
        lives = troupe.builds(STORM)
        answer = ask(daemon, troupe.play("x", Cue("exit"), model=STORM))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_recovering")
        wait_until(lambda: after == "poisoned" or troupe.builds(STORM) == lives + 1, 60)  # noqa: B023  # called at once
        wait_for(daemon, after, STORM)
    (info,) = [info for info in daemon.http.get("/models").json() if info["id"] == STORM]
    assert (info["servable"]["ok"], info["servable"]["reason"]) == (False, "recovery_failed")
    assert "3 times" in info["servable"]["detail"]
    assert losses(daemon, "exit", STORM) == 3
    assert (daemon.metric("model_status", model=STORM, status="poisoned")) == 1
    assert troupe.builds(STORM) == 3
    assert daemon.load(STORM).json() == {"status": "loaded"}
    assert chat(daemon, stream=False, **troupe.play("back", model=STORM)).content == "back"
    daemon.unload(STORM)


def test_n139_one_more_try_a_minute_later(
    daemon: Daemon, troupe: Troupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.ensure(FRAIL)
    broken, host = troupe.of(FRAIL) / "broken", cast("Any", daemon.slot(FRAIL).host)
    broken.touch()
    ask(daemon, troupe.play("x", Cue("exit"), model=FRAIL))
    wait_for(daemon, "poisoned", FRAIL)
    lives, well = troupe.builds(FRAIL), troupe.play("well", model=FRAIL)
    refused = ask(daemon, well)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_recovering")
    assert 50 < int(refused.headers["retry-after"]) <= 60
    for tries in (1, 2):
        wait_until(lambda: not host._busy)  # the minute begins when a try has ended
        minutes = 61 * tries
        monkeypatch.setattr(host, "_clock", lambda m=minutes: time.monotonic() + m)
        assert ask(daemon, well).status_code == 503
        while troupe.builds(FRAIL) < lives + tries:
            ask(daemon, well)
        broken.unlink(missing_ok=True)
    wait_for(daemon, "loaded", FRAIL)
    assert chat(daemon, stream=False, **well).content == "well"
    daemon.unload(FRAIL)


def test_a_model_that_comes_back_asks_no_registry(daemon: Daemon, hub: FakeHub) -> None:
    daemon.ensure(FETCHED)
    asked, child = len(hub.requests), daemon.child(FETCHED)
    assert asked > 0
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: daemon.slot(FETCHED).host.pid not in (None, child), 60)
    wait_for(daemon, "loaded", FETCHED)
    assert ask(daemon, {"model": FETCHED, "max_tokens": 2}).status_code == 200
    assert len(hub.requests) == asked
    daemon.unload(FETCHED)


def test_n138_the_first_request_of_a_trap_is_not_streamed(daemon: Daemon, troupe: Troupe) -> None:
    daemon.ensure(VICTIM)
    lives, well = troupe.builds(VICTIM), troupe.play("well", model=VICTIM)
    answer = ask(daemon, well, path=TEXT, request_id="trap")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_recovering")
    assert daemon.end("trap")[0] == "request rejected"
    wait_until(lambda: troupe.builds(VICTIM) == lives + 1, 60)
    wait_for(daemon, "loaded", VICTIM)
    assert [ask(daemon, {**well, "stream": s}).status_code for s in (True, False)] == [200, 200]
    daemon.unload(VICTIM)


def test_n053_unload_of_a_model_given_up(daemon: Daemon, troupe: Troupe) -> None:
    daemon.ensure(FRAIL)
    broken = troupe.of(FRAIL) / "broken"
    broken.touch()
    ask(daemon, troupe.play("x", Cue("exit"), model=FRAIL))
    wait_for(daemon, "poisoned", FRAIL)
    assert daemon.unload(FRAIL).json() == {"status": "unloaded"}
    assert (daemon.status(FRAIL), daemon.unload(FRAIL).status_code) == (None, 404)
    broken.unlink()
