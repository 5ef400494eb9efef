"""A drafter for tests."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from helexa.engine.sequence import Sequence as Row


class Knowing:
    """Has read the answers beforehand, by sequence, and lies about a token now and then.

    About a single one it never lies, so that it goes on being asked for more.
    """

    def __init__(
        self, answers: Mapping[int, Sequence[int]], lies: float = 0.0, seed: int = 0
    ) -> None:
        self.dropped: list[int] = []
        self._answers = answers
        self.lies = lies
        self._chance = random.Random(seed)

    def propose(self, seq: Row, count: int) -> Sequence[int]:
        done = len(seq.generated)
        known = self._answers[seq.id][done : done + count]
        if count == 1:
            return known
        return [token ^ (self._chance.random() < self.lies) for token in known]

    def drop(self, seq: Row) -> None:
        self.dropped.append(seq.id)
