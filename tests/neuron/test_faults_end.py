"""The end of a daemon: asked to stop while it serves, asked twice, or killed."""

from __future__ import annotations

import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.neuron.daemon_process import (
    SPARE,
    TINY,
    Daemon,
    alive,
    family_of,
    request,
    started,
    stopped,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

CONFIG = """
default_models = [{model_id = "builtin:helexa/tiny"}]
[engine]
admission = {max_in_flight = 2, anon_max_in_flight = 2}
"""
TOKENS = 300


def test_n011_a_killed_daemon_leaves_no_process_behind(tmp_path: Path) -> None:
    with (
        started(tmp_path, CONFIG, SPARE) as daemon,
        daemon.connect(stream=True, max_tokens=2000),
    ):
        daemon.wait_for_load(in_flight=1)
        daemon.spare()
        family = family_of(daemon.process.pid)
        assert len(alive(family)) >= 2
        daemon.process.kill()
        wait_until(lambda: not alive(family), 5.0)


def test_n009_who_runs_at_a_signal_is_served_and_who_waits_is_told(tmp_path: Path) -> None:
    with started(tmp_path, CONFIG) as daemon, ThreadPoolExecutor(2) as pool:
        family = family_of(daemon.process.pid)
        with (
            httpx.Client(base_url=daemon.url, timeout=60) as open_before,
            daemon.stream(max_tokens=TOKENS) as one,
            daemon.stream(max_tokens=TOKENS) as other,
        ):
            open_before.get("/health")
            waiting = [pool.submit(ask, daemon) for _ in range(2)]
            daemon.wait_for_load(in_flight=2, queue_depth=2)
            daemon.process.send_signal(signal.SIGTERM)
            for refused in (*[waiter.result(60) for waiter in waiting],):
                assert_shutting_down(refused)
            assert daemon.process.poll() is None
            assert open_before.get("/health").status_code == 200
            frames = [list(stream) for stream in (one, other)]
        for said in frames:
            assert said[-1] == "[DONE]"
            assert json.loads(said[-2])["usage"]["completion_tokens"] == TOKENS
        assert daemon.process.wait(60) == 0
        assert not alive(family)
        assert daemon.words().rstrip().endswith("shutdown complete")


def ask(daemon: Daemon) -> httpx.Response:
    return httpx.post(f"{daemon.url}/v1/completions", json=request(max_tokens=4), timeout=60)


def assert_shutting_down(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "shutting_down"
    assert answer.headers["retry-after"] == "15"


def test_a_load_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The child that should load stands still, so the load would not come to an end."""
    with started(tmp_path, "", SPARE) as daemon, ThreadPoolExecutor(1) as pool:
        with stopped(daemon.spare()):
            family = family_of(daemon.process.pid)
            loading = pool.submit(load, daemon)
            wait_until(lambda: f"loading {TINY}" in daemon.words())
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(30) == 0
        answer = loading.result(60)
        assert (answer.status_code, "cancelled" in answer.text) == (400, True), answer.text
        assert not alive(family)


def load(daemon: Daemon) -> httpx.Response:
    return httpx.post(f"{daemon.url}/models/load", json={"model_id": TINY}, timeout=60)


def test_who_was_stopped_with_its_model_goes_on_with_it(tmp_path: Path) -> None:
    """As a container or a machine is paused: the model was silent only while nobody listened."""
    environ = {"NEURON_TP_STEP_TIMEOUT_S": "6"}  # a busy machine's own pauses are shorter
    with started(tmp_path, CONFIG, environ) as daemon, daemon.stream(max_tokens=TOKENS) as frames:
        said = [next(frames)]
        child = daemon.child()
        with stopped(child):
            with stopped(daemon.process.pid):
                time.sleep(8)
            time.sleep(0.5)
        said += frames
        assert json.loads(said[-2])["usage"]["completion_tokens"] == TOKENS
        assert "was lost" not in daemon.words()
        assert daemon.child() == child


def test_n010_who_runs_on_after_the_drain_is_told(tmp_path: Path) -> None:
    with (
        started(tmp_path, f"shutdown_drain_secs = 1\n{CONFIG}") as daemon,
        daemon.stream(max_tokens=2000) as frames,
    ):
        said = [next(frames)]
        daemon.process.send_signal(signal.SIGTERM)
        said += frames
        assert "[DONE]" not in said
        assert json.loads(said[-1])["error"]["code"] == "shutting_down"
        assert daemon.process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with started(tmp_path, CONFIG) as daemon, daemon.connect(stream=True, max_tokens=2000):
        daemon.wait_for_load(in_flight=1)
        family = family_of(daemon.process.pid)
        daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "shutting down" in daemon.words())
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(10) == 1
        wait_until(lambda: not alive(family), 5.0)
