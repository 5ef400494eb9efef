"""What only a host on a thread can get wrong."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from helexa.engine.host import ThreadHost
from helexa.engine.outputs import StepOutput
from helexa.errors import EngineClosed
from tests.cores import REQUEST, Controls, CountingCore
from tests.waiting import wait_until


def test_a_fault_that_is_kept_does_not_keep_the_core(tmp_path: Path) -> None:
    Controls(tmp_path).fail("device")
    made: list[weakref.ref[CountingCore]] = []

    def build() -> CountingCore:
        core = CountingCore(tmp_path)
        made.append(weakref.ref(core))
        return core

    host = ThreadHost(build)
    host.start()
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    kept = queue.get(timeout=10).error
    host.close()
    gc.collect()
    assert kept is not None
    assert made[0]() is None


@pytest.fixture
def heeded() -> Iterator[None]:
    """^C is heeded even if whoever started the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_an_interrupted_start_leaves_nothing_running(tmp_path: Path) -> None:
    interrupted = threading.Event()

    def build() -> CountingCore:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        interrupted.wait(10)
        return CountingCore(tmp_path)

    host = ThreadHost(build, name="interrupted")
    with pytest.raises(KeyboardInterrupt):
        host.start()
    interrupted.set()
    for thread in [t for t in threading.enumerate() if t.name == "interrupted"]:
        thread.join(10)
    wait_until(lambda: Controls(tmp_path).closed)
    with pytest.raises(EngineClosed):
        host.submit(REQUEST, lambda output: None)
