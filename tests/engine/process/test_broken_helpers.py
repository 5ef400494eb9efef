"""Threads that help a host or its child: where one fails, the model is lost, not deaf and dumb."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any, cast

import pytest

from helexa.engine.host import ThreadHost
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.process.children import Child, Nursery, signal_name
from helexa.engine.process.host import Loss, ProcessHost
from helexa.engine.process.messages import FromChild, Outputs
from helexa.errors import EngineLost, InvalidRequest
from tests.cores import BUILDER, LONG, REQUEST, Controls, build
from tests.test_host import read_all
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


class Confused(ProcessHost):
    """Stumbles over the first output that it reads."""

    def _receive(self) -> FromChild | None:
        message = super()._receive()
        if isinstance(message, Outputs) and message.outputs:
            raise RecursionError("too deep")
        return message


@pytest.fixture
def make_host(nursery: Nursery, controls: Controls) -> Iterator[Callable[..., Any]]:
    made: list[ProcessHost] = []

    def make(kind: type[ProcessHost] = ProcessHost) -> tuple[ProcessHost, Queue[Loss]]:
        losses: Queue[Loss] = Queue()
        host = kind(controls.order, nursery, on_loss=losses.put)
        made.append(host)
        host.start()
        return host, losses

    yield make
    for host in made:
        host.close()


def test_a_child_that_cannot_read_an_order_ends(make_host: Callable[..., Any]) -> None:
    host, losses = make_host()
    body = b'{"Submit":{"id":7,"request":{"token_ids":[1],"params":{"logit_bias":{"x":1}}}}}'
    host._child.sock.sendall(struct.pack(">I", len(body)) + body)
    assert losses.get(timeout=20).cause == "exit"


def test_a_reader_that_fails_loses_its_child(make_host: Callable[..., Any]) -> None:
    host, losses = make_host(Confused)
    queue: Queue[StepOutput] = Queue()
    host.submit(LONG, queue.put)
    error = read_all(queue)[1].error
    assert isinstance(error, EngineLost)
    assert "too deep" in str(error)
    assert losses.get(timeout=20).reaped


def test_a_signal_without_a_name_is_a_loss_too(make_host: Callable[..., Any]) -> None:
    host, losses = make_host()
    os.kill(host.pid, signal.SIGRTMIN + 1)
    loss = losses.get(timeout=20)
    assert f"signal {signal.SIGRTMIN + 1}" in str(loss.error)
    assert signal_name(9) == "SIGKILL"


def test_a_request_that_cannot_be_written_fails_alone(make_host: Callable[..., Any]) -> None:
    host, _ = make_host()
    bad: Queue[StepOutput] = Queue()
    good: Queue[StepOutput] = Queue()
    mixed = cast("Any", frozenset({1, "one"}))  # has no order, so no form on the wire
    host.submit(Request(mixed, REQUEST.params), bad.put)
    host.submit(REQUEST, good.put)
    assert isinstance(read_all(bad)[1].error, InvalidRequest)
    assert read_all(good)[0] == [0, 1, 2]


@pytest.fixture
def thread_host(controls: Controls) -> Iterator[ThreadHost]:
    host = ThreadHost(lambda: build(controls.order, lambda *report: None))
    host.start()
    yield host
    host.close()


def test_a_panic_over_one_request_is_its_own(thread_host: ThreadHost) -> None:
    bad: Queue[StepOutput] = Queue()
    good: Queue[StepOutput] = Queue()
    thread_host.submit(Request((96,), REQUEST.params), bad.put)
    thread_host.submit(REQUEST, good.put)
    assert "Panic" in str(read_all(bad)[1].error)
    assert read_all(good)[0] == [0, 1, 2]


def test_a_panic_in_a_step_ends_every_request(thread_host: ThreadHost, controls: Controls) -> None:
    controls.fail("panic")
    queue: Queue[StepOutput] = Queue()
    thread_host.submit(REQUEST, queue.put)
    assert isinstance(read_all(queue)[1].error, EngineLost)
    with pytest.raises(EngineLost, match="Panic"):
        thread_host.submit(REQUEST, queue.put)


def test_what_a_process_leaves_in_its_group_goes_with_it() -> None:
    """It ends by itself, and the one it started does not."""
    script = "import os, sys, time; os.fork() or time.sleep(600); sys.exit(3)"
    process = subprocess.Popen(["python3", "-c", script], start_new_session=True)
    child = Child(process, cast("Any", None))
    assert child.reap(20)
    assert child.how_it_ended() == "exited with status 3"
    wait_until(lambda: not is_there(process.pid), 10)


def is_there(group: int) -> bool:
    """Whether a process group has members that run."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_a_process_that_cannot_be_started_ahead_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Full(Nursery):
        def _start(self) -> Child:
            raise BlockingIOError("no more processes")

    nursery = Full(builder=BUILDER)
    nursery.prepare()
    wait_until(lambda: "no more processes" in caplog.text)
    nursery.close()
