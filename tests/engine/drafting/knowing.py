"""Drafters for tests, and a clock."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from helexa.engine.drafting.lookup import LookupDrafter
from helexa.engine.drafting.pace import MOST_SAVED, Experience
from helexa.engine.sequence import Sequence as Row


def trust(seq: Row) -> None:
    """Have a sequence bet on guesses whatever came of them before."""
    sure = Experience(1.0, 1.0)
    seq.pace = replace(seq.pace, saved=MOST_SAVED, first=sure, later=sure, vain=0)


class Knowing:
    """Has read the answers beforehand, by sequence, and lies about a token now and then.

    Its sequences bet on it whatever came of that before.
    """

    def __init__(
        self, answers: Mapping[int, Sequence[int]], lies: float = 0.0, seed: int = 0
    ) -> None:
        self.dropped: list[int] = []
        self._answers = answers
        self.lies = lies
        self._chance = random.Random(seed)

    def propose(self, seq: Row, count: int) -> Sequence[int]:
        trust(seq)
        done = len(seq.generated)
        known = self._answers[seq.id][done : done + count]
        return [token ^ (self._chance.random() < self.lies) for token in known]

    def drop(self, seq: Row) -> None:
        self.dropped.append(seq.id)


class Confident(LookupDrafter):
    """Looks up, and has its sequences bet on that whatever came of it before."""

    def propose(self, seq: Row, count: int) -> list[int]:
        trust(seq)
        return super().propose(seq, count)


class Tick:
    """A clock that goes on with each reading, so that drafts depend on nothing but tokens."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now
