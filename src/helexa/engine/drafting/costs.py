"""What more tokens in a step cost, learned from the steps there were."""

from __future__ import annotations

from typing import Final

from helexa.engine.drafting.pace import MOST_SAVED

SMOOTHING: Final = 0.2
SURPRISE: Final = 2.0
"""A step that took longer than so many times what was expected says less of it than of others."""
GUESS: Final = 0.1
"""Of a step, for each token, until that has been measured."""
LEAST: Final = 0.01
"""Of a step, for each token: a reading of less is noise."""


class StepCosts:
    """Smoothed seconds of decode steps, by how many sequences and how many drafted tokens."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], float] = {}

    def add(self, rows: int, drafted: int, seconds: float) -> None:
        """Count a step of ``rows`` sequences with a token each, and ``drafted`` more in all.

        Steps with drafts count once there is one without to compare them with.
        """
        plain = self._seconds.get((rows, 0))
        if plain is None:
            if not drafted:
                self._seconds[rows, 0] = seconds
            return
        expected = self._seconds.get((rows, drafted), plain * (1 + GUESS * drafted))
        reading = min(seconds, SURPRISE * expected)
        self._seconds[rows, drafted] = expected + SMOOTHING * (reading - expected)

    def of_drafts(self, rows: int, most: int) -> list[float]:
        """What one draft of 0 … ``most`` tokens costs among ``rows`` sequences, in plain tokens.

        No more than a sequence can save, or nobody would ever try again.
        """
        return [0.0, *(min(rows * self._share(rows, k), MOST_SAVED) for k in range(1, most + 1))]

    def _share(self, rows: int, drafted: int) -> float:
        """What so many drafted tokens add to a step, as a share of one without.

        Never less than a shorter draft is known to add, while this one has not been measured.
        """
        known = self._known(rows, drafted)
        if known is not None:
            return known
        shorter = (self._known(rows, length) for length in range(drafted - 1, 0, -1))
        return max(GUESS * drafted, next((share for share in shorter if share is not None), 0.0))

    def _known(self, rows: int, drafted: int) -> float | None:
        plain, seconds = (self._seconds.get((rows, count)) for count in (0, drafted))
        return max(seconds / plain - 1, LEAST * drafted) if plain and seconds else None
