"""What more tokens in a step cost, learned from the steps there were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

SMOOTHING: Final = 0.2
"""The weight of a reading among many; the first ones are averaged."""
SURPRISE: Final = 2.5
"""A step that took longer than so many times what was expected says less of it than of others."""
GUESS: Final = 0.5
"""In plain tokens, for a draft, until one has been measured."""
GUESS_EACH: Final = 0.1
"""The same for each token of it, and for each beyond the longest that was measured."""
LEAST: Final = 0.02
"""Of a step, for each token: a reading of less is noise."""
FADING: Final = 64
"""After so many plain steps a share is taken for less, by 1/16: what was once dear is tried again,
and one in thousands of tokens shows whether it still is."""
_FADED: Final = 15 / 16


@dataclass(frozen=True, slots=True)
class Average:
    """A mean of ``count`` readings, the latest counting most."""

    value: float
    count: int = 0

    def with_reading(self, reading: float) -> Average:
        """With one more reading."""
        weight = max(SMOOTHING, 1 / (self.count + 1))
        return Average(self.value + weight * (reading - self.value), self.count + 1)


class StepCosts:
    """Smoothed seconds of decode steps without drafts, and what drafts add to them.

    That is kept as a share of a step, since steps become slower together: as contexts grow, or
    where others are at work on the machine. Nothing is learned from the first step of a kind, as it
    may also make what later ones reuse.
    """

    def __init__(self) -> None:
        self._plain: dict[int, Average] = {}  # sequences in the step → seconds
        self._shares: dict[tuple[int, int], Average] = {}  # and drafted tokens → share of a step
        self._seen: set[tuple[int, int]] = set()
        self._known: dict[tuple[int, int], tuple[float, ...]] = {}  # asked for since they changed
        self._plain_steps = 0

    def add(self, rows: int, drafted: int, seconds: float) -> float:
        """Count a step of ``rows`` sequences with a token each, and ``drafted`` more in all.

        Returns what the drafts have cost, in plain tokens: what was expected of them if there is
        nothing to compare with.
        """
        first = (rows, drafted) not in self._seen
        self._seen.add((rows, drafted))
        if not drafted:
            if not first:
                self._add_plain(rows, seconds)
            return 0.0
        expected = self._share(rows, drafted)
        plain = self._plain.get(rows)
        if plain is None:
            return rows * expected
        reading = min(seconds / plain.value, SURPRISE * (1 + expected)) - 1
        share = max(reading, LEAST * drafted)
        if not first:
            known = self._shares.get((rows, drafted), Average(expected))
            self._shares[rows, drafted] = known.with_reading(share)
            self._known.clear()
        return rows * share

    def of_drafts(self, rows: int, most: int) -> tuple[float, ...]:
        """What one draft of 0 … ``most`` tokens costs among ``rows`` sequences, in plain tokens.

        There is none as long as nothing is known of such steps without drafts.
        """
        if rows not in self._plain:
            return (0.0,)
        known = self._known.get((rows, most))
        if known is None:
            costs = (rows * self._share(rows, length) for length in range(1, most + 1))
            known = self._known[rows, most] = (0.0, *costs)
        return known

    def _add_plain(self, rows: int, seconds: float) -> None:
        known = self._plain.get(rows, Average(seconds))
        self._plain[rows] = known.with_reading(min(seconds, SURPRISE * known.value))
        self._plain_steps += 1
        if self._plain_steps % FADING == 0:
            self._shares = {
                kind: replace(share, value=share.value * _FADED)
                for kind, share in self._shares.items()
            }
            self._known.clear()

    def _share(self, rows: int, drafted: int) -> float:
        """What so many drafted tokens add to a step, as a share of one without.

        No more than what was measured of longer drafts. Of what is longer than all that were
        measured, it is a guess that begins at the longest of these.
        """
        measured = {tokens: self._shares[of, tokens] for of, tokens in self._shares if of == rows}
        longer = [share.value for tokens, share in measured.items() if tokens >= drafted]
        if longer:
            return max(min(longer), LEAST * drafted)
        longest = max(measured, default=0)
        known = self._share(rows, longest) if measured else GUESS / rows
        return max(known + GUESS_EACH / rows * (drafted - longest), LEAST * drafted)
