"""How long drafts are: long where they help, none where they do not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helexa.engine.drafting.costs import COMPARING, FADING, GUESS, LOOKING, StepCosts
from helexa.engine.drafting.pace import (
    MOST_SAVED,
    PATIENCE,
    START,
    SURE,
    Experience,
    Pace,
    allowed,
    draft_length,
    limit,
)

CHEAP = (0.0, 0.05, 0.08, 0.1, 0.12)
DEAR = (0.0, 0.6, 0.9, 1.2, 1.5)
SHORTEST_ANSWER = 32
LOSS = 0.03
DEAREST_LOOK = 0.05
"""Of a step: 50 microseconds of a millisecond."""
LONG_ENOUGH = 64
"""Tokens of an answer that has time to make up for its first looks."""
ROUNDS = 8
"""So often each kind of step was timed before an answer."""
TABLES = st.lists(st.floats(0.1, 3.0), min_size=1, max_size=6).map(lambda c: (0.0, *sorted(c)))
"""What 0, 1, … drafted tokens cost, in plain tokens."""


@dataclass
class Answer:
    """Steps of a sequence alone, whose guesses are as right as ``right`` says at each draw.

    ``true`` is what drafts cost and ``look`` what looking does; a plain step takes a second.
    ``spent`` counts what drafts have cost, ``gained`` the tokens they have brought, ``surprise``
    how far one went beyond its expected cost.
    """

    true: Sequence[float]
    right: Callable[[int], bool]
    costs: StepCosts = field(default_factory=StepCosts)
    pace: Pace = field(default_factory=Pace)
    look: float = 0.0
    tokens: int = 0
    unwatched: int = 0
    looks: int = 0
    drafts: int = 0
    spent: float = 0.0
    gained: int = 0
    surprise: float = 0.0

    def run(self, tokens: int, *, known: bool = True) -> Answer:
        """Go on until there are so many tokens; what drafts cost is ``known``, or soon will be."""
        while self.tokens < tokens:
            self.step(tokens - self.tokens - 1)
            assert not known or self.spent - self.gained <= self.bound() + 1e-9
        return self

    def bound(self) -> float:
        """Plain tokens that drafts may have lost by now."""
        return limit(self.pace.steps) + self.surprise

    def lost(self) -> float:
        """Plain tokens that drafts and looks have lost, less than none if drafts have gained."""
        return self.spent + self.looks * self.look - self.gained

    def step(self, left: int) -> None:
        expected = self.costs.of_drafts(1, min(len(self.true) - 1, left))
        cheapest = expected[1] if len(expected) > 1 else 0.0
        if self.pace.rests(self.unwatched, self.costs.rest(1, 1), cheapest):
            self.costs.add(1, 0, 1.0)
            self.unwatched += 1
            self.tokens += 1
            self.right(0)
            return
        self.looks += 1
        self.costs.looked(1, self.look / (1 + COMPARING))
        self.pace = self.pace.stepped(1 + self.unwatched)
        self.unwatched = 0
        length = draft_length(self.pace, expected)
        cost = self.costs.add(1, length, 1 + self.true[length])
        right = 0
        while right < max(1, length) and self.right(length):
            right += 1
        if length:
            self.drafts += 1
            self.surprise = max(self.surprise, self.true[length] - expected[length])
            self.spent += self.true[length]
            self.gained += right
            self.pace = self.pace.settled(length, right, cost)
        else:
            self.pace = self.pace.watched(1, right)
        self.tokens += 1 + (right if length else 0)


def measured(true: Sequence[float]) -> StepCosts:
    """All that there is to know of a machine."""
    costs = StepCosts()
    for _ in range(ROUNDS):
        for length, cost in enumerate(true):
            costs.add(1, length, 1 + cost)
    return costs


def quotes(chance: random.Random, often: float, stays: float) -> Callable[[int], bool]:
    """Quotes that come and go: one goes on with a chance of ``stays``, or begins ``often``."""
    quoted = False

    def right(_: int) -> bool:
        nonlocal quoted
        if chance.random() > stays:
            quoted = chance.random() < often
        return quoted

    return right


def test_what_may_be_lost() -> None:
    """3 % of any answer of at least 32 tokens; what is lost never exceeds it, as shown below."""
    assert all(allowed(n) <= limit(n) <= LOSS * n for n in range(SHORTEST_ANSWER, 100_000))


@given(TABLES, st.integers(SHORTEST_ANSWER, 1000))
def test_guesses_that_never_come_true_are_never_bet_on(true: Sequence[float], tokens: int) -> None:
    """So they cost nothing but the look-up, whatever drafts cost and whatever is known of that."""
    for costs in (StepCosts(), measured(true)):
        answer = Answer(true, lambda _: False, costs).run(tokens)
        assert (answer.spent, answer.drafts) == (0.0, 0)


@given(TABLES, st.integers(SHORTEST_ANSWER, 1000))
def test_drafts_that_never_help_cost_what_is_allowed(true: Sequence[float], tokens: int) -> None:
    """The worst there is: guesses come true as long as nothing is bet on them, drafts never do."""
    answer = Answer(true, lambda drafted: not drafted, measured(true)).run(tokens)
    assert answer.gained == 0
    assert answer.spent <= LOSS * tokens + answer.surprise
    assert answer.surprise < 1e-9 or tokens + ROUNDS > FADING


@given(TABLES, st.randoms(use_true_random=False), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60)
def test_no_text_loses_more(
    true: Sequence[float], chance: random.Random, often: float, stays: float
) -> None:
    """Quotes that come and go, of any length: at each step what was lost is within the bound."""
    answer = Answer(true, quotes(chance, often, stays), measured(true))
    answer.run(300)  # which looks at every step
    assert answer.spent - answer.gained <= max(START, LOSS * answer.pace.steps) + answer.surprise


@given(TABLES, st.integers(SHORTEST_ANSWER, 300))
@settings(max_examples=40)
@example((0.0, 1.0, 1.0, 2.0, 2.0), 32)
@example((0.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0), 64)
def test_a_new_machine_is_known_soon(true: Sequence[float], tokens: int) -> None:
    """Nobody knows at first what drafts cost; in the worst case, where they never help, that is
    lost twice for each length, as one reading is not believed. From time to time it is asked
    whether what was dear still is, which takes a part in 500.
    """
    costs = StepCosts()
    lost = 0.0
    for _ in range(40):
        answer = Answer(true, lambda drafted: not drafted, costs).run(tokens, known=False)
        lost += answer.spent
    unknown = sum(max(0.0, cost - GUESS) for cost in true)
    assert lost <= 40 * tokens * (LOSS + 0.002) + 2 * unknown


@pytest.mark.parametrize("costs", [CHEAP, DEAR], ids=["cheap", "dear"])
@pytest.mark.parametrize("known", [True, False])
def test_a_text_that_is_quoted_gains(costs: Sequence[float], known: bool) -> None:
    answer = Answer(costs, lambda _: True, measured(costs) if known else StepCosts()).run(200)
    speed = 200 / (answer.pace.steps + answer.spent)
    assert speed > (3.7 if costs is CHEAP else 1.5)


def test_drafts_grow_with_success_and_stop_with_failure() -> None:
    answer = Answer(CHEAP, lambda _: True, measured(CHEAP)).run(40)
    assert draft_length(answer.pace, CHEAP) == 4
    assert answer.gained > 25
    answer.right = lambda _: False
    answer.run(340)
    assert draft_length(answer.pace, CHEAP) == 0
    assert answer.drafts < 45
    answer.right = lambda _: True  # a guess that is not bet on is watched, so that is noticed
    before = answer.gained
    answer.run(380)
    assert draft_length(answer.pace, CHEAP) == 4
    assert answer.gained > before + 20


@given(
    TABLES,
    st.floats(0, DEAREST_LOOK),
    st.integers(LONG_ENOUGH, 600),
    st.randoms(use_true_random=False),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(max_examples=60)
@example((0.0, 0.15, 0.2), DEAREST_LOOK, 600, random.Random(1), 0.5, 0.0)
@example((0.0, 1.0, 1.5), DEAREST_LOOK, 600, random.Random(1), 0.7, 0.0)
def test_looks_and_drafts_lose_no_more_together(
    true: Sequence[float],
    look: float,
    tokens: int,
    chance: random.Random,
    often: float,
    stays: float,
) -> None:
    """3 % and the first looks, also where guesses are right only while nothing is bet on them."""
    for text in (quotes(chance, often, stays), lambda drafted: not drafted, lambda _: False):
        answer = Answer(true, text, measured(true), look=look).run(tokens)
        assert answer.lost() <= LOSS * tokens + PATIENCE * look + answer.surprise


@pytest.mark.parametrize("look", [LOOKING / 2, 0.02, DEAREST_LOOK])
def test_texts_in_which_nothing_is_found_cost_little(look: float) -> None:
    """Half a percent, or little more where looks cannot be rarer."""
    answer = Answer(DEAR, lambda _: False, measured(DEAR), look=look).run(1000)
    assert (answer.looks == 1000) == (look < LOOKING)
    assert answer.lost() <= 1000 * LOOKING * 1.25 + PATIENCE * look


@pytest.mark.parametrize("look", [0.0, 0.02, DEAREST_LOOK])
@pytest.mark.parametrize("often", [0.0, 0.3])
def test_a_quotation_is_noticed_soon(look: float, often: float) -> None:
    """Behind 300 tokens of prose, in which few guesses or none were right."""
    chance = random.Random(3)
    answer = Answer(CHEAP, lambda _: chance.random() < often, measured(CHEAP), look=look).run(300)
    answer.right = lambda _: True
    before = answer.gained
    answer.run(600)
    assert answer.gained - before > 0.85 * 300 * 4 / 5


def test_who_cannot_pay_looks_less_often() -> None:
    """Also where each look finds something, until there is something to bet."""
    broke = Pace(saved=-1.0, steps=200, streak=SURE)
    assert broke.reserve == pytest.approx(1.0)
    assert [broke.rests(steps, 3, 0.1) for steps in range(5)] == [True] * 3 + [False] * 2
    assert not broke.rests(0, 0, 0.1)
    assert not replace(broke.stepped(10), vain=0).rests(0, 3, 0.1)


@pytest.mark.parametrize("guessed", [0, 1])
def test_looks_that_do_not_pay_are_rare(guessed: int) -> None:
    """But for the beginning of what may be a quotation, and as soon as a draft has paid."""
    pace = Pace()
    for _ in range(PATIENCE):
        assert not pace.rests(0, 3, 0.1)
        pace = pace.watched(guessed, 0)
    assert pace.rests(0, 3, 0.1)
    assert pace.watched(1, 0).rests(0, 3, 0.1)
    right = pace
    for _ in range(SURE - 1):
        right = right.watched(1, 1)
        assert not right.rests(0, 3, 0.1)
    assert right.watched(1, 1).rests(0, 3, 0.1)  # and no draft was worth its price
    assert not right.settled(1, 1, 0.5).rests(0, 3, 0.1)
    assert right.settled(2, 0, 0.5).rests(0, 3, 0.1)
    assert pace.settled(1, 1, 1.5).watched(1, 0).rests(0, 3, 0.1)


def test_what_comes_in_turns_is_not_met_at_the_same_turn_each_time() -> None:
    """A third of the guesses is right, and of the looks, however many there are."""
    for rest in (2, 5, 8):
        pace, unwatched, met = Pace(vain=PATIENCE), 0, []
        for index in range(300):
            if pace.rests(unwatched, rest, 0.1):
                unwatched += 1
                continue
            unwatched = 0
            met.append(index % 3 == 0)
            pace = pace.watched(1, 0)
        assert 0.2 < sum(met) / len(met) < 0.5


def test_dear_drafts_are_made_only_where_they_are_mostly_right() -> None:
    def made(saved: float, likely: float) -> int:
        known = Experience(10 * likely, 10.0)
        return draft_length(Pace(saved, later=known, streak=1), DEAR)

    assert made(3.0, 0.5) == 0
    assert made(3.0, 0.95) == 4
    assert made(1.0, 0.95) == 2  # what can be paid
    assert made(0.5, 0.95) == 0


def test_a_reserve_is_for_what_seems_sure() -> None:
    """A quotation is not kept waiting for half of the answer where drafts are dear."""
    known = Experience(9.5, 10.0)
    for steps in (80, 160):
        short, long = (
            Pace(allowed(steps), steps, later=known, streak=streak) for streak in (SURE - 1, SURE)
        )
        dear = 0.99 * limit(steps)
        costs = (0.0, 9.0, 9.0, 9.0, dear)
        assert (draft_length(short, costs), draft_length(long, costs)) == (0, 4)
        assert long.settled(4, 0, dear).saved < 0


def test_what_must_be_repeated_when_it_was_wrong_is_part_of_the_price() -> None:
    costs = (0.0, 0.45, 0.5, 0.55, 0.6)
    pace = Pace(later=Experience(5.0, 10.0), streak=1)
    assert draft_length(pace, costs) > 1
    assert draft_length(pace, costs, redone=True) == 0
    sure = Pace(later=Experience(9.5, 10.0), streak=1)
    assert draft_length(sure, costs, redone=True) == 4


@pytest.mark.parametrize("costs", [(), (0.0,)])
def test_no_length_is_possible(costs: Sequence[float]) -> None:
    assert draft_length(Pace(later=Experience(1.0, 1.0), streak=1), costs) == 0


def test_what_follows_a_wrong_token_is_no_experience() -> None:
    """The first of a draft counts as a first, the others as later ones, up to a wrong one."""
    pace = Pace(saved=0.0, first=Experience(0.0, 0.0), later=Experience(0.0, 0.0))
    after = pace.settled(4, 2, 0.5)
    assert (after.saved, after.streak) == (1.5, 0)
    assert after.first == Experience(1.0, 1.0)
    assert after.later == Experience(0.95, 1.95)
    whole = after.settled(3, 3, 0.5)
    assert (whole.saved, whole.streak) == (MOST_SAVED, 3)
    assert whole.watched(0, 0).streak == 0  # nobody had an idea: the thread is lost
    assert whole.watched(1, 0).later.likely < whole.later.likely


@pytest.mark.parametrize("true", [(1.0, 1.0, 2.0, 2.0), (1.2,) * 6, (2.0,) * 6, (3.0,) * 6])
@pytest.mark.parametrize("tokens", [SHORTEST_ANSWER, 64, 300])
def test_asking_again_costs_no_more_than_is_allowed(true: tuple[float, ...], tokens: int) -> None:
    """Answers for ever, each with the worst text, once all costs were learned."""
    costs = measured((0.0, *true))
    answers = 6400 // tokens
    lost = 0.0
    for _ in range(answers):
        answer = Answer((0.0, *true), lambda drafted: not drafted, costs)
        lost += answer.run(tokens, known=False).spent
    assert lost <= LOSS * tokens * answers


def test_one_that_is_as_dear_as_ever_speaks_for_all() -> None:
    costs = measured((0.0, 1.0, 2.0))
    before = costs.of_drafts(1, 2)
    for _ in range(3 * FADING):
        costs.add(1, 0, 1.0)
    assert costs.of_drafts(1, 2)[2] < 0.9 * before[2]
    costs.add(1, 1, 1 + before[1])
    assert costs.of_drafts(1, 2) == pytest.approx(before)


def test_one_that_has_become_cheap_leaves_the_others_faded() -> None:
    costs = measured((0.0, 1.0, 2.0))
    for _ in range(3 * FADING):
        costs.add(1, 0, 1.0)
    before = costs.of_drafts(1, 2)[2]
    costs.add(1, 1, 1.2)
    assert costs.of_drafts(1, 2)[2] == before
