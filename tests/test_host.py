"""What every host promises, run on each kind of host there is."""

from __future__ import annotations

import gc
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from queue import Queue

import pytest

from helexa.engine.host import Host, ThreadHost
from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.errors import DeviceError, EngineClosed, EngineLost, HelexaError, InvalidRequest

FACTS = EngineFacts("cpu", "float32", 1, 0.0, 64, 1024, 1024)
REQUEST = Request((1, 2, 3), SamplingParams(max_tokens=3))


class CountingCore:
    """Gives each request the tokens 0, 1, 2, …; a token id of 99 in a prompt makes it misbehave.

    ``gate`` holds every step until it is set, so that tests decide when a step ends.
    """

    def __init__(self, fault: Exception | None = None) -> None:
        self.facts = FACTS
        self.gate = threading.Event()
        self.gate.set()
        self.in_step = threading.Event()
        self.closed_on: threading.Thread | None = None
        self.aborted: list[int] = []
        self._fault = fault
        self._counts: dict[int, tuple[int, int]] = {}
        self._next = 100  # core ids differ from host ids on purpose

    @property
    def idle(self) -> bool:
        return not self._counts

    def submit(self, request: Request) -> int:
        if 99 in request.token_ids:
            raise ZeroDivisionError("nobody thought of that")
        if not request.token_ids:
            raise InvalidRequest("the prompt is empty", code="empty_prompt")
        self._next += 1
        self._counts[self._next] = (0, request.params.max_tokens)
        return self._next

    def abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        self._counts.pop(request_id, None)

    def step(self) -> list[StepOutput]:
        self.in_step.set()
        self.gate.wait(10)
        if self._fault is not None:
            raise self._fault
        outputs = []
        for id, (count, limit) in list(self._counts.items()):
            last = count + 1 >= limit
            outputs.append(StepOutput(id, (count,), finish_reason="length" if last else None))
            if last:
                del self._counts[id]
            else:
                self._counts[id] = (count + 1, limit)
        return outputs

    def status(self) -> EngineStatus:
        return EngineStatus(running=len(self._counts))

    def close(self) -> None:
        self.closed_on = threading.current_thread()


def thread_host(core: CountingCore) -> Host:
    return ThreadHost(lambda: core)


HOSTS: dict[str, Callable[[CountingCore], Host]] = {"thread": thread_host}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS.keys())
def make_host(request: pytest.FixtureRequest) -> Iterator[Callable[[CountingCore], Host]]:
    started: list[Host] = []

    def make(core: CountingCore) -> Host:
        host: Host = request.param(core)
        host.start()
        started.append(host)
        return host

    yield make
    for host in started:
        host.close()


def read_all(queue: Queue[StepOutput]) -> tuple[list[int], StepOutput]:
    tokens: list[int] = []
    while True:
        output = queue.get(timeout=10)
        tokens += output.token_ids
        if output.finished:
            return tokens, output


MakeHost = Callable[[CountingCore], Host]


def test_start_tells_the_facts() -> None:
    host = thread_host(CountingCore())
    try:
        assert host.start() == FACTS
    finally:
        host.close()


def test_start_raises_what_building_raised_and_leaves_nothing_running() -> None:
    def build() -> CountingCore:
        raise InvalidRequest("no such device", param="device")

    host = ThreadHost(build)
    with pytest.raises(InvalidRequest, match="no such device"):
        host.start()
    with pytest.raises(EngineLost, match="could not be loaded"):
        host.submit(REQUEST, lambda output: None)


def test_E095_outputs_arrive_in_order_and_carry_the_hosts_id(make_host: MakeHost) -> None:
    host = make_host(CountingCore())
    first: Queue[StepOutput] = Queue()
    second: Queue[StepOutput] = Queue()
    ids = [host.submit(REQUEST, first.put), host.submit(REQUEST, second.put)]
    for id, queue in zip(ids, (first, second), strict=True):
        tokens, last = read_all(queue)
        assert (tokens, last.id, last.finish_reason) == ([0, 1, 2], id, "length")


def test_a_refused_request_ends_with_its_error_and_others_go_on(make_host: MakeHost) -> None:
    host = make_host(CountingCore())
    bad: Queue[StepOutput] = Queue()
    good: Queue[StepOutput] = Queue()
    for prompt in ((), (99,)):
        host.submit(Request(prompt, REQUEST.params), bad.put)
    host.submit(REQUEST, good.put)
    for told in ("empty", "ZeroDivisionError"):
        _, refused = read_all(bad)
        assert isinstance(refused.error, InvalidRequest)
        assert told in str(refused.error)
    assert read_all(good)[0] == [0, 1, 2]


def test_abort_reaches_the_core_and_is_idempotent(make_host: MakeHost) -> None:
    core = CountingCore()
    host = make_host(core)
    queue: Queue[StepOutput] = Queue()
    core.gate.clear()
    id = host.submit(Request((1,), SamplingParams(max_tokens=1000)), queue.put)
    assert core.in_step.wait(10)
    host.abort(id)
    host.abort(id)
    host.abort(12345)
    core.gate.set()
    assert read_all_after(host)[0] == [0, 1, 2]  # messages are taken in order: the abort came first
    assert core.aborted == [101]
    assert not any(output.finished for output in queue.queue)


def read_all_after(host: Host) -> tuple[list[int], StepOutput]:
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    return read_all(queue)


def test_E095_status_answers_while_a_step_runs(make_host: MakeHost) -> None:
    core = CountingCore()
    host = make_host(core)
    core.gate.clear()
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    assert core.in_step.wait(10)
    assert host.status().running == 1  # would hang if it waited for the step
    core.gate.set()
    read_all(queue)
    assert host.status().running == 0


def test_close_ends_what_runs_and_what_comes(make_host: MakeHost) -> None:
    core = CountingCore()
    host = make_host(core)
    queue: Queue[StepOutput] = Queue()
    core.gate.clear()
    host.submit(Request((1,), SamplingParams(max_tokens=10**6)), queue.put)
    assert core.in_step.wait(10)
    closer = threading.Thread(target=host.close)
    closer.start()
    core.gate.set()
    closer.join(10)
    assert isinstance(read_all(queue)[1].error, EngineClosed)
    with pytest.raises(EngineClosed):
        host.submit(REQUEST, queue.put)
    assert host.close() is True
    assert core.closed_on is not None and core.closed_on is not threading.current_thread()


@pytest.mark.parametrize(
    ("fault", "told"),
    [(DeviceError("the card fell off the bus"), DeviceError), (RuntimeError("bug"), EngineLost)],
    ids=["device", "unexpected"],
)
def test_a_fault_ends_every_request_and_the_host(
    make_host: MakeHost, fault: Exception, told: type[HelexaError]
) -> None:
    host = make_host(CountingCore(fault))
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    assert isinstance(read_all(queue)[1].error, told)
    with pytest.raises(told):
        host.submit(REQUEST, queue.put)


def test_a_consumer_that_fails_harms_nobody_else(make_host: MakeHost) -> None:
    def fail(output: StepOutput) -> None:
        raise ValueError("the consumer is gone")

    core = CountingCore()
    host = make_host(core)
    good: Queue[StepOutput] = Queue()
    host.submit(Request((1,), SamplingParams(max_tokens=10**6)), fail)
    host.submit(REQUEST, good.put)
    assert read_all(good)[0] == [0, 1, 2]
    assert core.aborted == [101]  # nobody reads it: it does not run on


def test_a_fault_that_is_kept_does_not_keep_the_core(make_host: MakeHost) -> None:
    core = CountingCore(DeviceError("the card fell off the bus"))
    alive = weakref.ref(core)
    host = make_host(core)
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    del core
    kept = read_all(queue)[1].error
    host.close()
    gc.collect()
    assert kept is not None
    assert alive() is None


def test_an_ended_host_tells_each_caller_alone(make_host: MakeHost) -> None:
    host = make_host(CountingCore())
    host.close()
    depths = []
    for _ in range(3):
        with pytest.raises(EngineClosed) as caught:
            host.submit(REQUEST, lambda output: None)
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(depths)) == 1


def test_an_interrupted_start_leaves_nothing_running() -> None:
    core = CountingCore()
    interrupted = threading.Event()

    def build() -> CountingCore:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        interrupted.wait(10)
        return core

    host = ThreadHost(build, name="interrupted")
    with pytest.raises(KeyboardInterrupt):
        host.start()
    interrupted.set()
    (thread,) = [t for t in threading.enumerate() if t.name == "interrupted"]
    thread.join(10)
    assert core.closed_on is thread
    with pytest.raises(EngineClosed):
        host.submit(REQUEST, lambda output: None)
