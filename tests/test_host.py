"""What every host promises, run on each kind of host there is."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from queue import Queue

import pytest

from helexa.engine.host import Host, ThreadHost
from helexa.engine.outputs import Request, StepOutput
from helexa.engine.params import SamplingParams
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import ProcessHost
from helexa.errors import (
    DeviceError,
    EngineClosed,
    EngineLost,
    HelexaError,
    InvalidRequest,
    NumericalError,
    OutOfMemory,
)
from tests.cores import FACTS, LONG, REQUEST, Controls, build
from tests.waiting import wait_until


@pytest.fixture(params=["thread", "process"])
def host(request: pytest.FixtureRequest, controls: Controls, nursery: Nursery) -> Iterator[Host]:
    """A host of each kind, not started, around a CountingCore steered by ``controls``."""
    made: Host
    if request.param == "thread":
        made = ThreadHost(lambda: build(controls.order, lambda *report: None))
    else:
        made = ProcessHost(controls.order, nursery)
    yield made
    made.close()


@pytest.fixture
def running(host: Host) -> Host:
    host.start()
    return host


def read_all(queue: Queue[StepOutput]) -> tuple[list[int], StepOutput]:
    tokens: list[int] = []
    while True:
        output = queue.get(timeout=20)
        tokens += output.token_ids
        if output.finished:
            return tokens, output


def read_all_after(host: Host) -> tuple[list[int], StepOutput]:
    queue: Queue[StepOutput] = Queue()
    host.submit(REQUEST, queue.put)
    return read_all(queue)


def test_start_tells_the_facts(host: Host) -> None:
    assert host.start() == FACTS


def test_start_raises_what_building_raised_and_leaves_nothing_running(
    host: Host, controls: Controls
) -> None:
    controls.fail("build")
    with pytest.raises(InvalidRequest, match="no such device") as caught:
        host.start()
    assert caught.value.param == "device"
    with pytest.raises(EngineLost, match="could not be loaded"):
        host.submit(REQUEST, lambda output: None)


def test_E095_outputs_arrive_in_order_and_carry_the_hosts_id(running: Host) -> None:
    first: Queue[StepOutput] = Queue()
    second: Queue[StepOutput] = Queue()
    ids = [running.submit(REQUEST, first.put), running.submit(REQUEST, second.put)]
    for id, queue in zip(ids, (first, second), strict=True):
        tokens, last = read_all(queue)
        assert (tokens, last.id, last.finish_reason) == ([0, 1, 2], id, "length")


def test_what_was_generated_before_is_not_generated_again(running: Host) -> None:
    queue: Queue[StepOutput] = Queue()
    running.submit(Request((1, 2), SamplingParams(max_tokens=5), generated=(7, 8)), queue.put)
    assert read_all(queue)[0] == [2, 3, 4]


def test_a_refused_request_ends_with_its_error_and_others_go_on(running: Host) -> None:
    bad: Queue[StepOutput] = Queue()
    good: Queue[StepOutput] = Queue()
    for prompt in ((), (99,)):
        running.submit(Request(prompt, REQUEST.params), bad.put)
    running.submit(REQUEST, good.put)
    for told in ("empty", "ZeroDivisionError"):
        _, refused = read_all(bad)
        assert isinstance(refused.error, InvalidRequest)
        assert told in str(refused.error)
    assert read_all(good)[0] == [0, 1, 2]


def test_an_error_of_one_request_keeps_its_class_and_its_numbers(running: Host) -> None:
    queue: Queue[StepOutput] = Queue()
    running.submit(Request((98,), REQUEST.params), queue.put)
    assert isinstance(read_all(queue)[1].error, NumericalError)
    running.submit(Request((97,), REQUEST.params), queue.put)
    error = read_all(queue)[1].error
    assert isinstance(error, OutOfMemory)
    assert (error.required_mb, error.free_mb, str(error)) == (10, 1, "no room")
    assert read_all_after(running)[0] == [0, 1, 2]


def test_abort_reaches_the_core_and_is_idempotent(running: Host, controls: Controls) -> None:
    queue: Queue[StepOutput] = Queue()
    controls.hold()
    id = running.submit(LONG, queue.put)
    controls.wait_for_a_step()
    running.abort(id)
    running.abort(id)
    running.abort(12345)
    controls.release()
    assert read_all_after(running)[0] == [0, 1, 2]  # in order: the abort came first
    assert controls.aborted == [101]
    assert not any(output.finished for output in queue.queue)


def test_E095_status_answers_while_a_step_runs(running: Host, controls: Controls) -> None:
    controls.hold()
    queue: Queue[StepOutput] = Queue()
    running.submit(REQUEST, queue.put)
    controls.wait_for_a_step()
    wait_until(lambda: running.status().running == 1)  # would hang if it waited for the step
    controls.release()
    read_all(queue)
    wait_until(lambda: running.status().running == 0)


def test_close_ends_what_runs_and_what_comes(running: Host, controls: Controls) -> None:
    queue: Queue[StepOutput] = Queue()
    running.submit(LONG, queue.put)
    controls.wait_for_a_step()
    assert running.close() is True
    assert isinstance(read_all(queue)[1].error, EngineClosed)
    with pytest.raises(EngineClosed):
        running.submit(REQUEST, queue.put)
    assert running.close() is True
    assert controls.closed


@pytest.mark.parametrize(
    ("fault", "told"), [("device", DeviceError), ("bug", EngineLost)], ids=["device", "unexpected"]
)
def test_a_fault_ends_every_request_and_the_host(
    running: Host, controls: Controls, fault: str, told: type[HelexaError]
) -> None:
    queue: Queue[StepOutput] = Queue()
    controls.hold()
    running.submit(REQUEST, queue.put)
    running.submit(LONG, queue.put)
    controls.fail(fault)
    controls.release()
    for _ in range(2):
        assert isinstance(read_all(queue)[1].error, told)

    def refuses() -> bool:
        try:
            running.abort(running.submit(REQUEST, lambda output: None))
        except told:
            return True
        return False

    wait_until(refuses)


def test_a_consumer_that_fails_harms_nobody_else(running: Host, controls: Controls) -> None:
    def fail(output: StepOutput) -> None:
        raise ValueError("the consumer is gone")

    good: Queue[StepOutput] = Queue()
    running.submit(LONG, fail)
    running.submit(REQUEST, good.put)
    assert read_all(good)[0] == [0, 1, 2]
    wait_until(lambda: controls.aborted == [101])  # nobody reads it: it does not run on


def test_an_ended_host_tells_each_caller_alone(running: Host) -> None:
    running.close()
    depths = []
    for _ in range(3):
        with pytest.raises(EngineClosed) as caught:
            running.submit(REQUEST, lambda output: None)
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(depths)) == 1


def test_a_host_that_was_never_started_closes(host: Host) -> None:
    assert host.close() is True
