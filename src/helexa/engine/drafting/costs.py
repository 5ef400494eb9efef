"""What more tokens in a step cost, learned from the steps there were."""

from __future__ import annotations

from typing import Final

from helexa.engine.drafting.pace import MOST_SAVED

SMOOTHING: Final = 0.2
SURPRISE: Final = 2.0
"""A step that took longer than so many times what was expected says less of it than of others."""
GUESS: Final = 0.1
"""Of a step, for each token, until that has been measured."""
LEAST: Final = 0.02
"""Of a step, for each token: a reading of less is noise."""


class StepCosts:
    """Smoothed seconds of decode steps without drafts, and what drafts add to them.

    That is kept as a share of a step, since steps become slower together: as contexts grow, or
    where others are at work on the machine.
    """

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}  # sequences in the step → seconds
        self._shares: dict[tuple[int, int], float] = {}  # and drafted tokens → share of a step
        self._known: dict[tuple[int, int], tuple[float, ...]] = {}  # asked for since they changed

    def add(self, rows: int, drafted: int, seconds: float) -> None:
        """Count a step of ``rows`` sequences with a token each, and ``drafted`` more in all.

        Steps with drafts count once there is one without to compare them with.
        """
        plain = self._plain.get(rows)
        if plain is None:
            if not drafted:
                self._plain[rows] = seconds
            return
        share = self._shares.get((rows, drafted), GUESS * drafted) if drafted else 0.0
        reading = min(seconds / plain, SURPRISE * (1 + share)) - 1
        if drafted:
            self._shares[rows, drafted] = share + SMOOTHING * (reading - share)
            self._known.clear()
        else:
            self._plain[rows] = plain * (1 + SMOOTHING * reading)

    def of_drafts(self, rows: int, most: int) -> tuple[float, ...]:
        """What one draft of 0 … ``most`` tokens costs among ``rows`` sequences, in plain tokens.

        No more than a sequence can save, or nobody would ever try again.
        """
        known = self._known.get((rows, most))
        if known is None:
            costs = (min(rows * self._share(rows, k), MOST_SAVED) for k in range(1, most + 1))
            known = self._known[rows, most] = (0.0, *costs)
        return known

    def _share(self, rows: int, drafted: int) -> float:
        """What so many drafted tokens add to a step, as a share of one without.

        Until that has been measured, it is a guess, and never less than what a shorter draft adds.
        """
        share = self._shares.get((rows, drafted))
        if share is None:
            known = (self._shares.get((rows, length)) for length in range(drafted - 1, 0, -1))
            shorter = next((share for share in known if share is not None), 0.0)
            share = max(GUESS * drafted, shorter)
        return max(share, LEAST * drafted)
