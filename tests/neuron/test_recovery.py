"""A model that is lost comes back, and what was running goes on as if nothing had happened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

import pytest

from helexa.engine.config import EngineConfig
from helexa.engine.outputs import (
    Request,
    StepOutput,
    Timing,
)
from helexa.engine.params import SamplingParams
from helexa.engine.process.children import Nursery
from helexa.engine.process.host import Loss, ProcessHost
from helexa.engine.process.messages import Build
from helexa.errors import EngineClosed, EngineLost, LoadError, NumericalError
from helexa.neuron.recovery import Policy, RecoveringHost
from tests.cores import LONG, REQUEST
from tests.neuron.stages import FakeHost, Stage, read


def test_a_request_goes_on_with_what_its_reader_has(stages: Callable[..., Stage]) -> None:
    stage = stages()
    queue: Queue[StepOutput] = Queue()
    id = stage.host.submit(LONG, queue.put)
    stage.hosts[0].give(7)
    stage.hosts[0].give(8)
    stage.now = 50.0
    stage.hosts[0].die()
    after = stage.recovered(2)
    ((request, _),) = after.open.values()
    assert request.generated == (7, 8)
    assert request.token_ids == LONG.token_ids
    after.give(9, last=True)
    outputs = [read(queue) for _ in range(3)]
    assert [o.token_ids for o in outputs] == [(7,), (8,), (9,)]
    assert [o.id for o in outputs] == [id] * 3
    assert [o.cache is not None for o in outputs] == [True, False, False]
    assert outputs[2].timing == Timing(1.0, 50_000.0, 3.0)  # from the first token ever
    assert queue.empty()


def test_the_seed_of_both_runs_is_one(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.host.submit(LONG, lambda output: None)
    ((before, _),) = stage.hosts[0].open.values()
    stage.hosts[0].die()
    ((after, _),) = stage.recovered(2).open.values()
    assert before.params.seed is not None
    assert after.params.seed == before.params.seed


def test_a_request_that_waits_can_be_aborted(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(attempts=2, pauses=(0.3,)))
    id = stage.host.submit(LONG, lambda output: pytest.fail("nobody reads"))
    stage.faults = [LoadError("not yet")]
    stage.hosts[0].die()
    stage.host.abort(id)
    assert stage.recovered(3).open == {}


def test_without_patience_a_request_fails_at_once(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(resume_wait=0.0, pauses=(0.0,)))
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    stage.hosts[0].die()
    assert isinstance(read(queue).error, EngineLost)
    assert stage.recovered(2).open == {}


def test_patience_ends(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(resume_wait=0.2, attempts=2, pauses=(30.0,)))
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    stage.faults = [LoadError("not yet")]
    stage.hosts[0].die()
    assert isinstance(read(queue).error, EngineLost)
    assert stage.host.state == "recovering"


def test_patience_is_not_asked_of_what_goes_on(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(resume_wait=0.2, pauses=(0.0,)))
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    stage.hosts[0].die()
    after = stage.recovered(2)
    threading.Event().wait(0.4)
    after.give(1)
    assert read(queue).token_ids == (1,)


def test_two_losses_in_a_row_are_too_many_for_a_request(stages: Callable[..., Stage]) -> None:
    stage = stages()
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    stage.hosts[0].die()
    stage.recovered(2).die()
    assert isinstance(read(queue).error, EngineLost)
    assert stage.recovered(3).open == {}


def test_errors_of_a_request_are_its_own(stages: Callable[..., Stage]) -> None:
    stage = stages()
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    ((id, (_, deliver)),) = stage.hosts[0].open.items()
    deliver(StepOutput(id, error=NumericalError("nan 1")))
    assert isinstance(read(queue).error, NumericalError)
    assert stage.host.state == "loaded"


def test_while_it_recovers_nothing_is_taken(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(pauses=(30.0,)))
    stage.faults = [LoadError("not yet")]
    stage.hosts[0].die()
    with pytest.raises(EngineLost, match="recovering"):
        stage.host.submit(REQUEST, lambda output: None)
    assert stage.host.recoveries == {"exit": 1}


def test_loading_again_is_tried_with_pauses_then_given_up(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(attempts=2, pauses=(0.0,)))
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    stage.faults = [LoadError("no file"), LoadError("still no file")]
    stage.hosts[0].die()
    error = read(queue).error
    assert isinstance(error, EngineLost)
    assert "still no file" in str(error)
    assert stage.host.state == "poisoned"
    assert [state for state, _ in stage.changes] == ["loaded", "recovering", "poisoned"]
    assert stage.host.retry_if_due() is False  # the last try was just now
    stage.now += 61
    assert stage.host.retry_if_due() is True
    stage.recovered(4)
    assert stage.host.retry_if_due() is False


def test_a_child_that_dies_as_it_comes_back_counts_as_a_failed_try(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    made = stage.make

    def stillborn(on_loss: Callable[[Loss], None]) -> FakeHost:
        host = made(on_loss)
        if len(stage.hosts) == 2:
            host.loss = Loss("exit", EngineLost("it died at once"), True)
        return host

    stage.host._make = stillborn
    stage.hosts[0].die()
    stage.recovered(3)


def test_closing_ends_what_waits_and_the_recovery(stages: Callable[..., Stage]) -> None:
    stage = stages(Policy(pauses=(30.0,)))
    queue: Queue[StepOutput] = Queue()
    stage.host.submit(LONG, queue.put)
    stage.faults = [LoadError("not yet")]
    stage.hosts[0].die()
    assert stage.host.close()
    assert isinstance(read(queue).error, EngineClosed)
    with pytest.raises(EngineClosed):
        stage.host.submit(REQUEST, queue.put)
    assert stage.host.state == "closed"


def test_N136b_a_real_model_killed_in_mid_answer_gives_the_undisturbed_text() -> None:
    config = EngineConfig(device="cpu", dtype="float32")
    nursery = Nursery()
    host = RecoveringHost(
        lambda on_loss: ProcessHost(Build("tiny", config), nursery, on_loss=on_loss), Policy()
    )
    params = SamplingParams(max_tokens=150, ignore_eos=True, temperature=0.0)
    sampled = SamplingParams(max_tokens=150, ignore_eos=True, temperature=0.8, seed=11, logprobs=1)
    requests = [Request(tuple(range(40, 70)), params), Request(tuple(range(50, 99)), sampled)]
    try:
        host.start()
        calm, stormy = [run_all(host, requests, kill_after=after) for after in (None, 20)]
    finally:
        host.close()
        nursery.close()
    assert host.recoveries == {"exit": 1}
    assert stormy == calm
    assert [len(tokens) for tokens, _, _ in calm] == [150, 150]


def run_all(
    host: RecoveringHost, requests: list[Request], kill_after: int | None
) -> list[tuple[list[int], int, object]]:
    """Tokens, their number as told, and logprobs of each; the child is killed on the way."""
    queues: list[Queue[StepOutput]] = [Queue() for _ in requests]
    for request, queue in zip(requests, queues, strict=True):
        host.submit(request, queue.put)
    found = []
    for queue in queues:
        tokens: list[int] = []
        logprobs: list[object] = []
        while True:
            output = queue.get(timeout=60)
            assert output.error is None
            tokens += output.token_ids
            logprobs += [(p.token_id, round(p.logprob, 4)) for p in output.logprobs]
            if kill_after is not None and len(tokens) == kill_after:
                kill_after = None
                host.kill()
            if output.finished:
                break
        found.append((tokens, output.completion_tokens, logprobs))
    return found
