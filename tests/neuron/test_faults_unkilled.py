"""A process that no signal ends: what it holds stays held, and nobody is told otherwise."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import helexa
from helexa.engine.process.children import Child
from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.runtime import Runtime
from tests.neuron.daemons import Daemon, running
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # loads models

BUILTIN = Path(helexa.__file__).parent / "builtin" / "tiny"
WEDGED, OTHER = "copy:o/wedged", "copy:o/other"


class Wedged(Child):
    """Stands still in a driver, as far as anyone can see."""

    def kill(self) -> None:
        """No signal gets through."""

    def reap(self, timeout_s: float) -> bool:
        return False


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    for name in ("wedged", "other"):
        shutil.copytree(BUILTIN, tmp_path / "o" / name)
    engine = EngineSection(
        sources={"copy": SourceConfig(path=str(tmp_path))}, resume_wait_secs=0, recovery_attempts=1
    )
    config = NeuronConfig(port=0, engine=engine)
    with running(config, Runtime(step_timeout_s=3.0, abort_deadline_s=0.2)) as daemon:
        yield daemon


def wedge(daemon: Daemon) -> Child:
    """Load a model and make its process one that does nothing and cannot be ended."""
    daemon.ensure(WEDGED)
    host = cast("Any", daemon.slot(WEDGED).host._host)
    real: Child = host._child
    os.kill(real.pid, signal.SIGSTOP)
    host._child = Wedged(real.process, real.sock)
    return real


def post(daemon: Daemon, route: str, model_id: str) -> tuple[int, str]:
    answer = daemon.http.post(f"/models/{route}", json={"model_id": model_id})
    return answer.status_code, answer.text


def test_a_process_that_cannot_be_killed_keeps_its_device(daemon: Daemon) -> None:
    real = wedge(daemon)
    wait_until(lambda: daemon.status(WEDGED) == "poisoned", 60)
    (info,) = daemon.http.get("/models").json()
    assert "cannot be killed" in info["servable"]["detail"]
    for name in (OTHER, WEDGED):
        status, text = post(daemon, "load", name)
        assert (status, "device 0 is held by a process of 'copy:o/wedged'" in text) == (400, True)
    status, text = post(daemon, "unload", WEDGED)
    assert (status, "cannot be killed" in text) == (409, True)
    assert daemon.status(WEDGED) == "poisoned"
    end(daemon, real)
    assert post(daemon, "unload", WEDGED) == (200, '{"status":"unloaded"}')
    assert daemon.status(WEDGED) is None
    assert post(daemon, "load", OTHER)[0] == 200


def test_a_model_that_cannot_be_killed_is_not_unloaded(daemon: Daemon) -> None:
    real = wedge(daemon)
    status, text = post(daemon, "unload", WEDGED)
    assert (status, "cannot be killed" in text) == (409, True)
    wait_until(lambda: daemon.status(WEDGED) == "poisoned", 20)
    assert post(daemon, "load", WEDGED)[0] == 400
    end(daemon, real)
    assert post(daemon, "load", WEDGED)[0] == 200
    assert daemon.status(WEDGED) == "loaded"


def end(daemon: Daemon, real: Child) -> None:
    """The driver lets go of the process."""
    cast("Any", daemon.slot(WEDGED).host._host)._child = real
    real.kill()
    assert real.reap(20)
