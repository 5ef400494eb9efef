"""What only a host with a child process can get wrong: the child's death, silence and past."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest

from helexa.engine.build import build_core
from helexa.engine.config import EngineConfig
from helexa.engine.host import Host, ThreadHost
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.engine.process import host as process_host
from helexa.engine.process.awake import AwakeClock
from helexa.engine.process.children import Child, Nursery
from helexa.engine.process.host import Deadlines, Loss, ProcessHost
from helexa.engine.process.messages import Build
from helexa.errors import EngineClosed, EngineLost, LoadError, StepTimeout
from tests.cores import BUILDER, LONG, REQUEST, Controls
from tests.test_host import read_all
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def losses() -> Queue[Loss]:
    return Queue()


MakeHost = Callable[..., ProcessHost]


@pytest.fixture
def make_host(nursery: Nursery, controls: Controls, losses: Queue[Loss]) -> Iterator[MakeHost]:
    made: list[ProcessHost] = []

    def make(**deadlines: float) -> ProcessHost:
        host = ProcessHost(
            controls.order, nursery, deadlines=Deadlines(**deadlines), on_loss=losses.put
        )
        made.append(host)
        return host

    yield make
    for host in made:
        host.close()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_killed_child_ends_its_requests_and_tells_its_owner(
    make_host: MakeHost, losses: Queue[Loss]
) -> None:
    host = make_host()
    host.start()
    queue: Queue[StepOutput] = Queue()
    host.submit(LONG, queue.put)
    queue.get(timeout=20)
    host.kill()
    error = read_all(queue)[1].error
    assert isinstance(error, EngineLost)
    assert "SIGKILL" in str(error)
    loss = losses.get(timeout=20)
    assert (loss.cause, loss.reaped) == ("exit", True)
    with pytest.raises(EngineLost):
        host.submit(REQUEST, queue.put)
    assert host.close()
    assert losses.empty()  # told once


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        ("exit", "exit", "status 3"),
        ("device", "device", "fell off the bus"),
        ("memory", "oom", "full"),
        ("bug", "exit", "RuntimeError"),
    ],
)
def test_the_owner_learns_the_cause(
    make_host: MakeHost, losses: Queue[Loss], controls: Controls, fault: str, cause: str, words: str
) -> None:
    host = make_host()
    host.start()
    controls.fail(fault)
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    assert words in str(read_all(queue)[1].error)
    loss = losses.get(timeout=20)
    assert (loss.cause, loss.reaped) == (cause, True)


def test_nobody_waits_for_a_child_that_does_not_read(make_host: MakeHost) -> None:
    """Whoever submits is back while it stands still; what it was sent comes when it goes on."""
    host = make_host(step=30.0)
    host.start()
    assert host.pid is not None
    os.kill(host.pid, signal.SIGSTOP)
    queues: list[Queue[StepOutput]] = [Queue() for _ in range(5)]
    ids = tuple(range(1000, 201_000))  # far more than the socket holds
    for queue in queues:
        host.submit(Request(ids, REQUEST.params), queue.put)
        host.status()
    assert all(queue.empty() for queue in queues)
    os.kill(host.pid, signal.SIGCONT)
    assert [read_all(queue)[0] for queue in queues] == [[0, 1, 2]] * 5


def test_a_stopped_child_misses_its_deadline(make_host: MakeHost, losses: Queue[Loss]) -> None:
    host = make_host(step=1.0)
    host.start()
    pid = host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    assert isinstance(read_all(queue)[1].error, StepTimeout)
    assert losses.get(timeout=20).cause == "deadline"
    assert not is_running(pid)


def test_a_step_that_does_not_end_misses_its_deadline_though_the_child_lives(
    make_host: MakeHost, losses: Queue[Loss], controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the child says of it: on this clock the host has heard from it just now."""
    monkeypatch.setattr(process_host, "AwakeClock", lambda: AwakeClock(lambda: 0.0))
    host = make_host(step=1.0)
    host.start()
    time.sleep(1.2)
    before = host.status()
    wait_until(lambda: host.status() is not before)
    assert losses.empty()  # an idle child has no step to be late with
    controls.hold()
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    assert isinstance(read_all(queue)[1].error, StepTimeout)
    assert losses.get(timeout=20).cause == "deadline"


def test_a_child_that_dies_while_it_loads(make_host: MakeHost, controls: Controls) -> None:
    controls.fail("die")
    host = make_host()
    with pytest.raises(LoadError, match="exited with status 5"):
        host.start()
    assert host.pid is not None and not is_running(host.pid)


def test_loading_without_progress_is_given_up(make_host: MakeHost, controls: Controls) -> None:
    controls.fail("slow")
    host = make_host(load=1.0)
    with pytest.raises(LoadError, match="no progress for 1 seconds"):
        host.start()
    assert host.pid is not None and not is_running(host.pid)


def test_closing_cancels_a_load_at_once(make_host: MakeHost, controls: Controls) -> None:
    controls.fail("slow")
    host = make_host()
    caught: list[BaseException] = []

    def start() -> None:
        try:
            host.start()
        except EngineClosed as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(lambda: host.pid is not None, 20)
    began = time.monotonic()
    assert host.close(60)  # not even that long does it ask first
    thread.join(60)
    assert time.monotonic() - began < 30
    assert len(caught) == 1


def test_progress_is_told(nursery: Nursery, controls: Controls) -> None:
    told: list[tuple[str, int, int | None]] = []
    host = ProcessHost(controls.order, nursery, report=lambda *what: told.append(what))
    host.start()
    host.close()
    assert told[-1] == ("weights", 2, 2)


def test_the_spare_child_is_used_and_replaced(nursery: Nursery, make_host: MakeHost) -> None:
    nursery.prepare()
    wait_until(lambda: nursery._spare is not None, 20)
    spare = nursery._spare
    assert spare is not None
    host = make_host()
    host.start()
    assert host.pid == spare.pid
    wait_until(lambda: nursery._spare is not None, 20)
    assert nursery._spare is not None
    os.kill(nursery._spare.pid, signal.SIGKILL)
    dead = nursery._spare
    dead.reap(10)
    other = make_host()
    other.start()
    assert other.pid not in (dead.pid, host.pid)


ORPHANS = """
import os, signal, sys, time
from pathlib import Path
from helexa.engine.process.children import Child, Nursery
from helexa.engine.process.host import ProcessHost
from tests.cores import BUILDER, Controls

nursery = Nursery(builder=BUILDER)
host = ProcessHost(Controls(Path(sys.argv[1])).order, nursery)
host.start()
while nursery._spare is None:
    time.sleep(0.01)
os.kill(host.pid, signal.SIGSTOP)
print(host.pid, nursery._spare.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_survives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(is_running(pid) for pid in pids)
        parent.send_signal(how)
    wait_until(lambda: not any(is_running(pid) for pid in pids), 5)


def test_a_real_model_answers_the_same_on_both_hosts() -> None:
    config = EngineConfig(device="cpu", dtype="float32")
    nursery = Nursery(warm=False)
    hosts: list[Host] = [
        ThreadHost(lambda: build_core("tiny", config)),
        ProcessHost(Build("tiny", config), nursery),
    ]
    found = []
    try:
        for host in hosts:
            facts = host.start()
            queue: Queue[StepOutput] = Queue()
            params = SamplingParams(max_tokens=24, seed=5, temperature=0.9, logprobs=2)
            host.submit(Request(tuple(range(40, 90)), params), queue.put)
            outputs = []
            while not outputs or not outputs[-1].finished:
                outputs.append(queue.get(timeout=60))
            found.append(
                (facts, [(o.token_ids, o.logprobs, o.finish_reason, o.cache) for o in outputs])
            )
    finally:
        for host in hosts:
            host.close()
        nursery.close()
    assert found[0] == found[1]


def test_a_close_ends_the_child_that_is_just_being_taken(controls: Controls) -> None:
    """It is not answered before that child is gone, though the host does not know it yet."""

    class Slow(Nursery):
        def take(self) -> Child:
            taken.append(super().take())
            closing.start()
            closing.join(0.2)
            return taken[0]

    def close() -> None:
        gone.append(host.close(0.0))
        gone.append(not is_running(taken[0].pid))

    taken: list[Child] = []
    gone: list[bool] = []
    closing = threading.Thread(target=close)
    nursery = Slow(warm=False, builder=BUILDER)
    host = ProcessHost(controls.order, nursery)
    with pytest.raises(EngineClosed):
        host.start()
    closing.join()
    assert gone == [True, True]
    nursery.close()


def test_a_host_that_its_own_thread_closes_while_its_child_starts_leaves_none(
    controls: Controls,
) -> None:
    """As a signal handler does. Closing finds no child to end: it is not known to the host yet."""

    class Slow(Nursery):
        def take(self) -> Child:
            host.close()
            taken.append(super().take())
            return taken[0]

    taken: list[Child] = []
    nursery = Slow(warm=False, builder=BUILDER)
    host = ProcessHost(controls.order, nursery)
    with pytest.raises(EngineClosed):
        host.start()
    assert not is_running(taken[0].pid)
    nursery.close()
