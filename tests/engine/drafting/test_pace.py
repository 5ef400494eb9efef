"""How long drafts are: long where they help, next to none where they do not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.engine.drafting.costs import StepCosts
from helexa.engine.drafting.pace import ALLOWANCE, MOST_SAVED, START, Pace, draft_length

CHEAP = [0.0, 0.05, 0.08, 0.1, 0.12]
DEAR = [0.0, 0.6, 0.9, 1.2, 1.5]


def run(pace: Pace, costs: list[float], right: list[bool]) -> tuple[Pace, float, float]:
    """Steps of a sequence, each with what is right of its draft: → tokens gained, time spent."""
    gained = spent = 0.0
    for chance in right:
        pace = pace.stepped()
        length = draft_length(pace, costs)
        if length:
            accepted = length if chance else 0
            pace = pace.settled(length, accepted, costs[length])
            gained += accepted
            spent += costs[length]
    return pace, gained, spent


@given(
    st.lists(st.floats(0.01, 2.0), min_size=1, max_size=6).map(sorted),
    st.integers(1, 2000),
)
def test_drafts_that_never_help_cost_what_is_allowed(costs: list[float], steps: int) -> None:
    _, gained, spent = run(Pace(), [0.0, *costs], [False] * steps)
    assert gained == 0
    assert spent <= START + ALLOWANCE * steps + 1e-9


@given(st.lists(st.booleans(), max_size=300))
def test_nobody_loses_more_than_was_ever_saved(right: list[bool]) -> None:
    _, gained, spent = run(Pace(), DEAR, right)
    assert spent - gained <= START + ALLOWANCE * len(right) + 1e-9


def test_drafts_grow_with_success_and_stop_with_failure() -> None:
    pace, gained, _ = run(Pace(), CHEAP, [True] * 10)
    assert draft_length(pace, CHEAP) == 4
    assert gained > 30
    pace, _, spent = run(pace, CHEAP, [False] * 100)
    assert draft_length(pace, CHEAP) == 0
    assert spent <= MOST_SAVED + 100 * ALLOWANCE
    pace, gained, _ = run(pace, CHEAP, [True] * 12)  # tried now and then, so that is noticed
    assert draft_length(pace, CHEAP) == 4
    assert gained > 20


def test_dear_drafts_are_made_only_where_they_are_mostly_right() -> None:
    assert draft_length(Pace(saved=2.0, right=5.0, tried=10.0), DEAR) == 2  # a trial
    assert draft_length(Pace(saved=0.8, right=5.0, tried=10.0), DEAR) == 0
    assert draft_length(Pace(saved=2.0, right=19.0, tried=20.0), DEAR) == 4
    assert draft_length(Pace(saved=1.0, right=19.0, tried=20.0), DEAR) == 2  # what can be paid


@pytest.mark.parametrize("costs", [[], [0.0]])
def test_no_length_is_possible(costs: list[float]) -> None:
    assert draft_length(Pace(), costs) == 0


def test_what_follows_a_wrong_token_is_no_experience() -> None:
    pace = Pace(saved=0.0, right=0.0, tried=0.0)
    assert pace.settled(4, 2, 0.5) == Pace(saved=1.5, right=2.0, tried=3.0)
    assert pace.settled(4, 4, 0.5) == Pace(saved=2.0, right=4.0, tried=4.0)


# --- what steps cost ------------------------------------------------------------------------------


def test_costs_are_guessed_then_measured() -> None:
    chance = random.Random(1)
    costs = StepCosts()
    assert costs.of_drafts(1, 3) == pytest.approx((0.0, 0.1, 0.2, 0.3))
    costs.add(1, 2, 9.0)  # nothing to compare it with yet
    for _ in range(200):
        costs.add(1, 0, chance.uniform(0.09, 0.11))
        costs.add(1, 2, chance.uniform(0.135, 0.165))
    _, one, two, three = costs.of_drafts(1, 3)
    assert one == pytest.approx(0.1)
    assert two == pytest.approx(0.5, abs=0.15)
    assert three == two  # not measured: no cheaper than what is


def test_costs_are_the_whole_steps() -> None:
    """A token among three sequences is a third of a step."""
    costs = StepCosts()
    for _ in range(100):
        costs.add(3, 0, 0.3)
        costs.add(3, 1, 0.36)
    assert costs.of_drafts(3, 1) == pytest.approx((0.0, 0.6), rel=0.01)
    assert costs.of_drafts(1, 1) == pytest.approx((0.0, 0.1))


def test_one_slow_step_says_little_and_a_cost_can_always_be_saved() -> None:
    costs = StepCosts()
    for seconds in (0.1, 0.1, 90.0):
        costs.add(1, 0, seconds)
    costs.add(1, 1, 0.12)
    assert costs.of_drafts(1, 1)[1] < 0.2
    for _ in range(100):
        costs.add(1, 1, 50.0)
    assert costs.of_drafts(1, 1)[1] == MOST_SAVED
