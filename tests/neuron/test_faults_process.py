"""A daemon whose model's process is killed, stopped, or starved of memory; clients that vanish."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import helexa
from tests.neuron.daemon_process import SPARE, Daemon, best_s, started, stat_of, state_of, stopped
from tests.waiting import noting_pauses

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

LOCAL = "local:o/tiny"
LONG = "word " * 1900
ENDLESS = {"max_tokens": 1900, "stream": True}
KV_MB = 24
CONFIG = """
default_models = [{{model_id = "builtin:helexa/tiny", kv_mb = {kv_mb}}}]
[engine]
resume_wait_secs = 0
sources.local = {{path = "{models}"}}
prefix_cache.enabled = false
admission = {{max_in_flight = 2, anon_max_in_flight = 2, max_queue_depth = 4}}
"""
ROUTES = (
    *("/health", "/models", "/version", "/discovery", "/v1/models"),
    *("/models/builtin:helexa%2Ftiny/endpoint", "/models/builtin:helexa%2Ftiny/capabilities"),
)
ANSWER_S = 0.1


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    shutil.copytree(Path(helexa.__file__).parent / "builtin" / "tiny", folder / "models/o/tiny")
    config = CONFIG.format(kv_mb=KV_MB, models=folder / "models")
    with started(folder, config, {"NEURON_TP_STEP_TIMEOUT_S": "8", **SPARE}) as daemon:
        daemon.spare()
        yield daemon


@pytest.fixture(autouse=True)
def healthy(daemon: Daemon) -> Iterator[None]:
    """After each test the model serves, and nothing is taken."""
    yield
    daemon.wait_for("loaded")
    daemon.wait_until_idle()
    assert daemon.ask(max_tokens=4)["usage"]["completion_tokens"] == 4


def error_of(frames: list[str]) -> dict[str, Any]:
    """The error that a stream ended with; nothing may come after it."""
    assert "[DONE]" not in frames
    *said, last = [json.loads(frame) for frame in frames]
    assert all(choice["finish_reason"] is None for frame in said for choice in frame["choices"])
    error: dict[str, Any] = last["error"]
    return error


def test_n136_a_killed_child_ends_its_stream_and_comes_back(daemon: Daemon) -> None:
    with stopped(daemon.spare()):  # there is no other to take its place before it goes on
        with daemon.stream(max_tokens=1900) as frames:
            said = [next(frames) for _ in range(5)]
            os.kill(daemon.child(), signal.SIGKILL)
            said += frames
        assert error_of(said)["code"] == "model_recovering"
        assert daemon.status() == "recovering"
        assert daemon.load() == {}
        refused = daemon.http.post("/v1/completions", json={"model": "helexa/tiny", "prompt": "x"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_recovering"
        assert 2 <= int(refused.headers["retry-after"]) <= 60
        assert daemon.http.get(ROUTES[-2]).status_code == 200
    daemon.wait_for("loaded")


def test_n035_n137_a_stopped_child_holds_up_nobody_and_is_replaced(daemon: Daemon) -> None:
    lost = daemon.words().count("(deadline)")
    with daemon.stream(max_tokens=1900) as frames:
        said = [next(frames)]
        child = daemon.child()
        with stopped(child), noting_pauses() as pauses:
            took = {route: best_s(lambda route=route: daemon.http.get(route)) for route in ROUTES}
            still = state_of(child)
            said += frames
    slow = {route: s for route, s in took.items() if s > ANSWER_S + pauses.longest_s}
    assert (slow, still) == ({}, "T")
    assert error_of(said)["code"] == "model_recovering"
    daemon.wait_for("loaded")
    assert daemon.words().count("(deadline)") > lost
    assert daemon.child() != child


@contextmanager
def limited(pid: int, which: int, soft: int) -> Iterator[None]:
    """A process with less of something inside the block."""
    before = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (soft, before[1]))
    try:
        yield
    finally:
        if state_of(pid) not in ("", "Z"):
            resource.prlimit(pid, which, before)


def test_a_child_that_dies_while_it_loads_says_how_and_harms_nobody(daemon: Daemon) -> None:
    """A second of processor time: importing torch has used it up, so loading is the end."""
    spare = daemon.spare()
    if processor_s(spare) < 1:
        pytest.skip("this machine imports torch in less than a second")
    with limited(spare, resource.RLIMIT_CPU, 1), daemon.stream(max_tokens=200) as frames:
        answer = daemon.http.post("/models/load", json={"model_id": LOCAL}, timeout=60)
        said = list(frames)
    died = "the process that loaded the model was killed by SIGXCPU"
    assert (answer.status_code, died in answer.json()["error"]) == (400, True), answer.text
    assert said[-1] == "[DONE]"
    assert [info["id"] for info in daemon.http.get("/models").json()] == ["builtin:helexa/tiny"]
    again = daemon.http.post("/models/load", json={"model_id": LOCAL})
    assert again.json() == {"status": "loaded"}
    assert daemon.ask(model=LOCAL, max_tokens=4)["usage"]["completion_tokens"] == 4
    assert daemon.http.post("/models/unload", json={"model_id": LOCAL}).status_code == 200


def processor_s(pid: int) -> float:
    """The processor time that a process has used."""
    used = stat_of(pid)[11:13]
    return sum(int(ticks) for ticks in used) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """The size of a process's address space, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def test_n140_memory_that_runs_out_costs_one_request(daemon: Daemon) -> None:
    child = daemon.child()
    with daemon.stream(max_tokens=150) as frames:
        said = [next(frames)]
        with limited(child, resource.RLIMIT_AS, memory_of(child) + 2**20):
            refused = daemon.http.post(
                "/v1/completions", json={"model": "helexa/tiny", "prompt": LONG, "max_tokens": 4}
            )
        said += frames
    assert refused.status_code == 503, refused.text
    error = refused.json()["error"]
    assert error["code"] == "insufficient_vram"
    assert error.keys() >= {"free_mb", "required_mb"}
    assert refused.headers["retry-after"] == "5"
    assert json.loads(said[-2])["usage"]["completion_tokens"] == 150
    assert daemon.child() == child
    assert daemon.ask(prompt=LONG, max_tokens=4)["usage"]["completion_tokens"] == 4


def test_n026_a_client_that_vanishes_while_it_waits(daemon: Daemon) -> None:
    with daemon.stream(max_tokens=1900), daemon.stream(max_tokens=1900):
        waiting = [daemon.connect(prompt="Once", max_tokens=8) for _ in range(3)]
        daemon.wait_for_load(in_flight=2, queue_depth=3)
        for connection in waiting[:2]:
            connection.close()
        daemon.wait_for_load(in_flight=2, queue_depth=1)
    with waiting[2] as served:
        assert served.recv(64).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_n026_a_client_that_vanishes_while_it_is_served(daemon: Daemon, stage: str) -> None:
    """Three times as much as there is room for; what was not given back would be missing."""
    for turn in range(3):
        with daemon.connect(prompt=f"{turn} {stage} {LONG}", **ENDLESS) as connection:
            daemon.wait_for_load(in_flight=1)
            if stage == "decode":
                frames = connection.makefile("rb")
                while b'"text":' not in frames.readline():
                    pass
                frames.close()
        daemon.wait_until_idle()
    assert daemon.ask(prompt=LONG, max_tokens=4)["usage"]["completion_tokens"] == 4


def test_two_that_need_more_than_there_is_run_in_turn(daemon: Daemon) -> None:
    """Each claims most of the KV cache, so the second waits though a seat is free."""
    with daemon.connect(prompt=f"more {LONG}", **ENDLESS):
        daemon.wait_for_load(in_flight=1)
        second = daemon.connect(prompt=LONG, **ENDLESS)
        daemon.wait_for_load(in_flight=1, queue_depth=1)
    with second:
        daemon.wait_for_load(in_flight=1, queue_depth=0)
        assert second.recv(12) == b"HTTP/1.1 200"
