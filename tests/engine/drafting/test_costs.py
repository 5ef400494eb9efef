"""What drafts and looks cost is learned from the steps there were."""

from __future__ import annotations

import random

import pytest

from helexa.engine.drafting.costs import (
    COMPARING,
    GUESS_EACH,
    LONGEST_REST,
    LOOKING,
    SURPRISE,
    StepCosts,
)
from helexa.engine.drafting.pace import START


def test_costs_are_guessed_then_measured() -> None:
    chance = random.Random(1)
    costs = StepCosts()
    assert costs.add(1, 2, 9.0) == pytest.approx(0.7)  # nothing to compare with yet
    costs.add(1, 0, 9.0)  # the first one says nothing
    assert costs.of_drafts(1, 3) == (0.0,)
    costs.add(1, 0, 0.1)
    assert costs.of_drafts(1, 3) == pytest.approx((0.0, 0.6, 0.7, 0.8))
    for _ in range(6):
        costs.add(1, 0, chance.uniform(0.09, 0.11))
        costs.add(1, 2, chance.uniform(0.135, 0.165))
    _, one, two, three = costs.of_drafts(1, 3)
    assert two == pytest.approx(0.5, abs=0.15)
    assert one == min(0.6, two)  # a shorter one costs no more
    assert three == pytest.approx(two + GUESS_EACH)


@pytest.mark.parametrize("true", [0.05, 0.5, 1.0, 3.0])
def test_a_few_steps_are_enough(true: float) -> None:
    """Also where the guess was far off."""
    costs = StepCosts()
    for _ in range(4):
        costs.add(1, 0, 0.1)
        costs.add(1, 1, 0.1 * (1 + true))
    assert costs.of_drafts(1, 1)[1] == pytest.approx(true, rel=0.1)


def test_what_a_draft_has_cost_is_told() -> None:
    costs = StepCosts()
    for _ in range(2):
        costs.add(1, 0, 0.1)
    assert costs.add(1, 1, 0.17) == pytest.approx(0.7)
    assert costs.add(1, 1, 0.09) == pytest.approx(0.02)  # noise: none is free
    assert costs.add(1, 2, 70.0) == pytest.approx(SURPRISE * 1.7 - 1)  # as far as it is believed


def test_one_disturbed_step_is_not_believed() -> None:
    """Neither of a length nor of those that were not tried."""
    costs = StepCosts()
    for _ in range(2):
        costs.add(1, 0, 0.1)
    before = costs.of_drafts(1, 4)
    costs.add(1, 3, 9.0)
    assert costs.of_drafts(1, 4)[:4] == before[:4]
    costs.add(1, 3, 9.0)
    assert costs.of_drafts(1, 4)[:3] == before[:3]
    assert costs.of_drafts(1, 4)[3] > 2


def test_costs_are_the_whole_steps() -> None:
    """A token among three sequences is a third of a step."""
    costs = StepCosts()
    for _ in range(100):
        costs.add(3, 0, 0.3)
        costs.add(3, 1, 0.36)
    assert costs.of_drafts(3, 1) == pytest.approx((0.0, 0.6), rel=0.1)
    assert costs.of_drafts(1, 1) == (0.0,)


def test_one_slow_step_says_little() -> None:
    costs = StepCosts()
    for seconds in (0.1, 0.1, 0.1, 90.0):
        costs.add(1, 0, seconds)
    for _ in range(3):
        costs.add(1, 1, 0.12)
    costs.add(1, 1, 90.0)
    assert costs.of_drafts(1, 1)[1] == pytest.approx(0.2)


def test_what_was_dear_is_tried_again_some_time() -> None:
    """Whatever made it so may be over, and only a step can tell."""
    costs = StepCosts()
    for _ in range(9):
        costs.add(1, 0, 0.1)
        costs.add(1, 1, 0.3)
    plain = 0
    while costs.of_drafts(1, 1)[1] > 0.8 * START:
        costs.add(1, 0, 0.1)
        plain += 1
    assert 500 < plain < 3000


@pytest.mark.parametrize(("rows", "watched"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize(("share", "rest"), [(0.4, 0), (1.5, 1), (4.5, 4), (400.0, LONGEST_REST)])
def test_looks_take_so_much_of_a_step(rows: int, watched: int, share: float, rest: int) -> None:
    """``share`` of what they may: the longer they take, the fewer there are."""
    costs = StepCosts()
    each = share * LOOKING / (1 + COMPARING) / watched
    costs.looked(rows, each)
    assert costs.rest(rows, watched) == 0  # nobody knows how long a step is
    for seconds in (1.0, 1.0, 1.0):
        costs.add(rows, 0, seconds)
    for seconds in (30.0, each):  # one of them read a prompt
        costs.looked(rows, seconds)
    assert costs.rest(rows, watched) == rest
    assert costs.rest(rows + 1, watched) == 0


def test_a_clock_that_stands_still_says_nothing_of_looks() -> None:
    costs = StepCosts()
    costs.add(1, 0, 0.0)
    costs.looked(1, 0.0)
    assert costs.rest(1, 1) == 0
