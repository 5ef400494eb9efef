"""When a lost model does not come back: storms, pauses, processes that cannot be killed."""

from __future__ import annotations

from collections.abc import Callable

from helexa.engine.outputs import StepOutput
from helexa.errors import LoadError, NumericalError
from helexa.neuron.recovery import UNKILLED, Policy
from tests.cores import REQUEST
from tests.neuron.stages import Stage
from tests.waiting import wait_until


def test_a_storm_of_losses_is_not_recovered_from(stages: Callable[..., Stage]) -> None:
    stage = stages()
    for life in (1, 2):
        stage.hosts[-1].die()
        stage.recovered(life + 1)
    stage.hosts[-1].die()
    assert stage.host.state == "poisoned"
    assert "3 times" in stage.host.detail


def test_a_completed_request_ends_a_storm(stages: Callable[..., Stage]) -> None:
    stage = stages()
    for life in (1, 2, 3):
        stage.host.submit(REQUEST, lambda output: None)
        stage.hosts[-1].give(1, last=True)
        stage.hosts[-1].die()
        stage.recovered(life + 1)


def test_a_request_that_fails_by_itself_does_not_end_a_storm(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    for life in (1, 2):
        fail_one(stage)
        stage.hosts[-1].die()
        stage.recovered(life + 1)
    fail_one(stage)
    stage.hosts[-1].die()
    assert stage.host.state == "poisoned"


def fail_one(stage: Stage) -> None:
    """A request ends with an error of its own."""
    stage.host.submit(REQUEST, lambda output: None)
    ((id, (_, deliver)),) = stage.hosts[-1].open.items()
    deliver(StepOutput(id, error=NumericalError("nan 1")))


def test_the_wait_for_another_try_counts_from_the_end_of_the_last(
    stages: Callable[..., Stage],
) -> None:
    stage = stages(Policy(attempts=1))
    stage.load_s = 55.0
    stage.faults = [LoadError("no file")]
    stage.hosts[0].die()
    wait_until(lambda: stage.host.state == "poisoned")
    stage.now += 30
    assert stage.host.retry_if_due() is False
    assert stage.host.seconds_until_retry() == 30
    stage.now += 30
    assert stage.host.retry_if_due() is True
    stage.recovered(3)


def test_a_storm_has_a_window(stages: Callable[..., Stage]) -> None:
    stage = stages()
    for life in (1, 2, 3):
        stage.now += 400
        stage.hosts[-1].die()
        stage.recovered(life + 1)


def test_a_process_that_cannot_be_killed_poisons_until_it_is_gone(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    stage.hosts[0].die("deadline", reaped=False)
    assert (stage.host.state, stage.host.detail) == ("poisoned", UNKILLED)
    stage.now += 61
    assert stage.host.retry_if_due() is False
    assert stage.host.seconds_until_retry() == 60
    assert len(stage.hosts) == 1
    stage.hosts[0].stays = False
    assert stage.host.retry_if_due() is True
    stage.recovered(2)


def test_a_load_that_leaves_a_process_behind_is_not_tried_again(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    stage.faults = [LoadError("no file"), LoadError("no file")]
    stage.leaves = True
    stage.hosts[0].die()
    wait_until(lambda: stage.host.state == "poisoned")
    assert len(stage.hosts) == 2
    assert stage.host.detail == UNKILLED
    assert stage.host.stuck


def test_what_cannot_be_killed_is_not_closed(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.hosts[0].stays = True
    assert stage.host.close() is False
    assert stage.changes[-1] == ("poisoned", UNKILLED)
    stage.now += 61
    assert stage.host.retry_if_due() is False
    stage.hosts[0].stays = False
    assert stage.host.retry_if_due() is False  # nobody wants it back
    assert stage.host.close() is True
    assert stage.changes[-1] == ("closed", "closed")
