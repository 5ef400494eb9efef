"""How often a core looks for what may follow: as it pays, and as the clock allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from torch import Tensor

from helexa.engine.batch import Part
from helexa.engine.drafting.costs import COMPARING, LONGEST_REST, LOOKING
from helexa.engine.drafting.pace import PATIENCE
from helexa.engine.sequence import Sequence as Row
from tests.engine.paged import Bench, PagedRunner

PROMPT = [0, 1, 4, 13, 12, 9, 0, 1, 4, 13]
LONG = {"max_tokens": 60, "ignore_eos": True}
STEP_S = 0.010


class Looking:
    """Notes how far the answer was whenever it was asked; right from the token ``since`` on.

    Before that it ``guesses`` wrong, or nothing. Each look takes ``took_s`` of ``clock``.
    """

    def __init__(self, answer: Sequence[int], since: int = 1000, *, guesses: bool = False) -> None:
        self.looks: list[int] = []
        self.answer, self.since, self.guesses = answer, since, guesses
        self.clock, self.took_s = HandSet(), 0.0

    def propose(self, seq: Row, count: int) -> Sequence[int]:
        self.clock.now += self.took_s
        done = len(seq.generated)
        self.looks.append(done)
        if done >= self.since:
            return [self.answer[done]]
        return [self.answer[done] ^ 1] if self.guesses else []

    def drop(self, seq: Row) -> None:
        pass


class HandSet:
    """A clock that goes on only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answer_of(prompt: list[int]) -> list[int]:
    """What it is without drafts."""
    made = Bench(blocks=128)
    asked = made.submit(prompt, **LONG)
    made.run()
    return made.tokens(asked)


def bench(drafter: Looking, monkeypatch: pytest.MonkeyPatch, share: float) -> Bench:
    """A step takes ``STEP_S``, and a look ``share`` of what looks may take of it."""
    clock, run = drafter.clock, PagedRunner.run
    drafter.took_s = STEP_S * LOOKING * share / (1 + COMPARING)

    def slow(runner: PagedRunner, parts: Sequence[Part]) -> Tensor:
        clock.now += STEP_S
        return run(runner, parts)

    monkeypatch.setattr(PagedRunner, "run", slow)
    return Bench(blocks=128, guesses=drafter, draft_len=1, clock=clock)


def gaps(looks: list[int]) -> set[int]:
    return {later - earlier for earlier, later in pairwise(looks)}


@pytest.mark.parametrize("guesses", [True, False])
def test_a_text_that_repeats_nothing_is_looked_at_less_often(guesses: bool) -> None:
    """As seldom as it may be where a look takes as long as these steps, until a guess was right:
    then at each, and no step was forgotten."""
    drafter = Looking(answer_of(PROMPT), since=37, guesses=guesses)
    made = Bench(blocks=128, guesses=drafter, draft_len=1)
    made.submit(PROMPT, speculative=True, **LONG)
    for _ in range(45):
        made.step()
    often, looks = drafter.looks[:PATIENCE], drafter.looks[PATIENCE:]
    assert gaps(often) == {1}
    first_right = next(done for done in looks if done >= 37)
    seldom = [done for done in looks if done <= first_right]
    assert gaps([often[-1], *seldom]) == {LONGEST_REST, LONGEST_REST + 1}
    assert looks[len(seldom)] == first_right + 1
    (seq,) = made.core._scheduler.running
    assert seq.pace.steps + seq.unwatched == len(made.runner.steps)


@pytest.mark.parametrize(("others", "rest"), [(False, 1), (True, 3)])
def test_what_looks_may_take_is_for_all_who_look(
    others: bool, rest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as rare for two rows as for one, and a row without drafts has no part in it."""
    drafter = Looking(answer_of(PROMPT))
    made = bench(drafter, monkeypatch, 1.75)
    made.submit(PROMPT, speculative=True, **LONG)
    made.submit(PROMPT[1:], speculative=others, **LONG)
    while len(made.core._scheduler.running) < 2:
        made.step()
    for _ in range(40):
        made.step()
    each = drafter.looks[PATIENCE * (1 + others) + 2 :: 1 + others]
    assert len(each) > 5
    assert gaps(each) == {rest, rest + 1}


def test_looks_that_take_no_time_are_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = Looking(answer_of(PROMPT))
    made = bench(drafter, monkeypatch, 0.9)
    made.submit(PROMPT, speculative=True, **LONG)
    made.run()
    assert gaps(drafter.looks) == {1}


@pytest.mark.parametrize(("saved", "often"), [(-2.0, False), (0.9, True)])
def test_who_cannot_pay_any_draft_looks_less_often(
    saved: float, often: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However right it is."""
    drafter = Looking(answer_of(PROMPT), since=0)
    made = bench(drafter, monkeypatch, 4.5)
    made.submit(PROMPT, speculative=True, **LONG)
    while len(drafter.looks) < 2:
        made.step()
    (seq,) = made.core._scheduler.running
    seq.pace = replace(seq.pace, saved=saved)
    for _ in range(20):
        made.step()
    if often:
        assert len(drafter.looks) > 10
    else:
        assert gaps(drafter.looks[2:]) in ({4}, {5}, {4, 5})
