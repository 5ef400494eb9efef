"""How a daemon begins and ends: what comes before its port, and what every model is given."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from helexa.neuron.app import Neuron
from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.ids import ModelSpec
from helexa.neuron.runtime import Runtime
from helexa.protocol.control import ActivationStatus
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.neuron import daemon_process
from tests.neuron.callers import settle
from tests.neuron.daemons import TINY, Daemon, Log, started
from tests.waiting import wait_until

TINY_FOLDER = Path(__file__).parents[2] / "src/helexa/builtin/tiny"

SLOW_DRIVER = """
import logging, sys, time, anyio
from pathlib import Path
from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.discovery import Sampler
from helexa.neuron.nvml import Cards
from helexa.neuron.run import run
from helexa.neuron.runtime import Runtime

def read_cards():
    print("the driver is asked", file=sys.stderr, flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    return Cards()

logging.basicConfig(level=logging.INFO)
sampler = Sampler(read_cards=read_cards)
anyio.run(run, Neuron(NeuronConfig(port=int(sys.argv[1])), Runtime(), {}, sampler=sampler))
"""


@contextmanager
def slow_driver(folder: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A daemon whose driver answers once the file `answer` is in ``folder``; and its log."""
    log = folder / "log"
    with log.open("wb") as stderr:
        command = [sys.executable, "-c", SLOW_DRIVER, str(port), str(folder / "answer")]
        process = subprocess.Popen(command, stderr=stderr)
    try:
        wait_until(lambda: "the driver is asked" in log.read_text(), 100)
        yield process, log
    finally:
        process.kill()
        process.wait(50)


def test_the_port_is_taken_only_when_it_is_known_what_the_host_has(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with slow_driver(tmp_path, port) as (_, log):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert "listening on" not in log.read_text()
        (tmp_path / "answer").touch()
        answered = time.monotonic()
        wait_until(lambda: "listening on" in log.read_text(), 50)
        uptime_s = httpx.get(f"http://127.0.0.1:{port}/health", timeout=50).json()["uptime_secs"]
        assert uptime_s <= time.monotonic() - answered


def test_a_signal_is_heard_before_the_driver_has_answered(tmp_path: Path) -> None:
    with slow_driver(tmp_path, 0) as (process, log):
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 0
        said = log.read_text()
    assert "listening on" not in said
    assert said.rstrip().endswith("shutdown complete")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_whoever_waits_for_a_load_of_another_does_not_begin_one_at_the_end(tmp_path: Path) -> None:
    with daemon_process.started(tmp_path, "", daemon_process.SPARE) as daemon:
        with daemon_process.stopped(daemon.spare()):
            first = load_sent(daemon)
            wait_until(lambda: f"loading {TINY}" in daemon.words(), 50)
            second = load_sent(daemon)
            for _ in range(5):  # by then it has arrived
                daemon.http.get("/health")
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(50) == 0
        assert first.getresponse().status == 400
        refused = second.getresponse()
        assert (refused.status, b"shutting_down" in refused.read()) == (503, True)
    assert daemon.words().count(f"loading {TINY}") == 1


def load_sent(daemon: daemon_process.Daemon) -> HTTPConnection:
    """A request for a model, all of it sent."""
    at = httpx.URL(daemon.url)
    connection = HTTPConnection(at.host, at.port, timeout=60)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/models/load", json.dumps({"model_id": TINY}), headers)
    return connection


def test_the_end_ends_the_loading_of_the_default_models(tmp_path: Path) -> None:
    """What was still to be loaded has not failed: nobody tried."""
    files = {path.name: path.read_bytes() for path in TINY_FOLDER.iterdir() if path.is_file()}
    hub = FakeHub(files)
    hub.gate = threading.Event()
    with ExitStack() as servers:
        hub.endpoint = servers.enter_context(serving(hub))
        hub.store = servers.enter_context(serving(hub))
        own = SourceConfig(endpoint=hub.endpoint, cache_dir=str(tmp_path))
        engine = EngineSection(sources=dict.fromkeys(("one", "two", "three"), own))
        specs = tuple(ModelSpec(model_id=f"{scheme}:org/name") for scheme in engine.sources)
        config = NeuronConfig(port=0, default_models=specs, engine=engine)
        with Log().listening() as log:
            status = anyio.run(told_to_stop, Neuron(config, Runtime(), {}), hub)
        hub.gate.set()
    assert (status.failed, status.completed) == ((), ())
    assert status.pending == ("two:org/name", "three:org/name")
    assert "cannot load" not in log.text()


async def told_to_stop(neuron: Neuron, hub: FakeHub) -> ActivationStatus:
    """What has become of the default models when the first was cut short while it arrived."""
    async with neuron.running():
        await anyio.to_thread.run_sync(wait_until, lambda: bool(hub.asked("model.safetensors")), 50)
        neuron.stop_taking()
        await neuron.registry.cancel_loads()
        await anyio.to_thread.run_sync(wait_until, lambda: not neuron.registry._watches, 50)
        await settle()
        return neuron.activation.status


def test_models_are_unloaded_side_by_side_and_what_fails_is_said(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org/name").symlink_to(TINY_FOLDER)
    disk = SourceConfig(path=str(tmp_path))
    config = NeuronConfig(port=0, engine=EngineSection(sources={"disk": disk}))
    together = threading.Barrier(2, timeout=30)
    given_s: dict[str, float] = {}
    with started(config) as at:
        for id, dies in ((TINY, True), ("disk:org/name", False)):
            assert at.load(id).json() == {"status": "loaded"}
            close_with(at, id, closing(at, id, together, given_s, dies=dies))
    assert given_s == {TINY: 20.0, "disk:org/name": 20.0}
    lines = [line for line in at.log.text().splitlines() if re.search("unloaded", line)]
    assert [("model unloaded" in line, TINY in line) for line in lines].count((True, True)) == 1
    (stuck,) = [line for line in lines if "model not unloaded" in line]
    assert "disk:org/name" in stuck and "cannot be killed" in stuck
    (summary,) = [line for line in lines if "ERROR" in line]
    assert "1 of 2 models could not be unloaded: disk:org/name" in summary


def close_with(at: Daemon, id: str, close: Callable[[float], bool]) -> None:
    at.slot(id).model.close = close  # type: ignore[method-assign]  # a process that stays is hard to come by


def closing(
    at: Daemon, id: str, together: threading.Barrier, given_s: dict[str, float], *, dies: bool
) -> Callable[[float], bool]:
    """Ends a model once every other is being ended too, and tells whether its process ``dies``."""
    real = at.slot(id).model.close

    def close(timeout_s: float) -> bool:
        given_s[id] = timeout_s
        together.wait()
        return real(timeout_s) and dies

    return close
