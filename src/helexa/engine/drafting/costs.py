"""What more tokens in a step cost, learned from the steps there were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READINGS: Final = 5
"""The latest of a kind, of which the middle one counts: some are always disturbed."""
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
LOOKING: Final = 0.005
"""Of a step's time, for looks in vain at all its sequences; more where these are rarest."""
LONGEST_REST: Final = 9
"""Steps without a look, at most: so much later the beginning of a copy is noticed."""
COMPARING: Final = 0.8
"""Of a look's time, what surrounds it: deciding, and comparing the guess with what was drawn."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The latest readings of something, oldest first."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """Their median, the lower one of two."""
        return sorted(self.values)[(len(self.values) - 1) // 2]

    def with_reading(self, reading: float) -> Readings:
        """With one more, in place of the oldest."""
        return Readings((*self.values[-READINGS + 1 :], reading))

    def scaled(self, factor: float) -> Readings:
        """All of them multiplied."""
        return Readings(tuple(value * factor for value in self.values))


class StepCosts:
    """The usual seconds of decode steps without drafts, and what drafts add to them.

    That is kept as a share of a step, since steps become slower together: as contexts grow, or
    where others are at work on the machine. What was guessed of a kind of step counts as the first
    reading of it, so one that was disturbed is never all there is.
    """

    def __init__(self) -> None:
        self._plain: dict[int, Readings] = {}  # sequences in the step → seconds
        self._shares: dict[tuple[int, int], Readings] = {}  # and drafted tokens → share of a step
        self._known: dict[tuple[int, int], tuple[float, ...]] = {}  # asked for since they changed
        self._look: Readings | None = None  # seconds, for one sequence
        self._looks: dict[int, float] = {}  # sequences in the step → share of it, for one look
        self._plain_steps = 0
        self._faded: dict[tuple[int, int], float] = {}  # to so much since there was a reading

    def add(self, rows: int, drafted: int, seconds: float) -> float:
        """Count a step of ``rows`` sequences with a token each, and ``drafted`` more in all.

        Returns what the drafts have cost, in plain tokens: what was expected of them if there is
        nothing to compare with.
        """
        plain = self._plain.get(rows)
        if not drafted:
            self._plain[rows] = plain.with_reading(seconds) if plain else Readings((seconds,))
            self._fade()
            return 0.0
        expected = self._share(rows, drafted)
        if plain is None:
            return rows * expected
        reading = min(seconds / plain.middle, SURPRISE * (1 + expected)) - 1
        share = max(reading, LEAST * drafted)
        if share > expected:
            self._unfade(rows, drafted)
        known = self._shares.get((rows, drafted), Readings((expected,)))
        self._shares[rows, drafted] = known.with_reading(share)
        self._faded[rows, drafted] = 1.0
        self._known.clear()
        return rows * share

    def of_drafts(self, rows: int, most: int) -> tuple[float, ...]:
        """What one draft of 0 … ``most`` tokens costs among ``rows`` sequences, in plain tokens.

        There is none as long as nothing is known of such steps without drafts.
        """
        plain = self._plain.get(rows)
        if plain is None or len(plain.values) < 2:  # the first may have taken long to set up
            return (0.0,)
        known = self._known.get((rows, most))
        if known is None:
            costs = (rows * self._share(rows, length) for length in range(1, most + 1))
            known = self._known[rows, most] = (0.0, *costs)
        return known

    def looked(self, rows: int, seconds: float) -> None:
        """Count a look at one sequence, in a step of ``rows`` of them."""
        self._look = self._look.with_reading(seconds) if self._look else Readings((seconds,))
        plain = self._plain.get(rows)
        if plain is not None and plain.middle > 0:
            self._looks[rows] = self._look.middle * (1 + COMPARING) / plain.middle

    def rest(self, rows: int, watched: int) -> int:
        """How many steps to leave out between two looks in vain.

        There are ``rows`` sequences in each, of which ``watched`` may have drafts.
        """
        return min(LONGEST_REST, int(watched * self._looks.get(rows, 0.0) / LOOKING))

    def _fade(self) -> None:
        """After a plain step: take a little off what drafts cost from time to time."""
        self._plain_steps += 1
        if self._plain_steps % FADING == 0:
            self._shares = {kind: found.scaled(_FADED) for kind, found in self._shares.items()}
            self._faded = {kind: faded * _FADED for kind, faded in self._faded.items()}
            self._known.clear()

    def _unfade(self, rows: int, drafted: int) -> None:
        """After a step that was as dear as ever: so are drafts of other lengths, unasked."""
        faded = self._faded.get((rows, drafted), 1.0)
        for kind in [kind for kind in self._faded if kind[0] == rows]:
            factor = min(1 / faded, 1 / self._faded[kind])
            self._faded[kind] *= factor
            self._shares[kind] = self._shares[kind].scaled(factor)

    def _share(self, rows: int, drafted: int) -> float:
        """What so many drafted tokens add to a step, as a share of one without.

        No more than longer drafts do. Of what was not measured it is a guess, which begins at the
        longest of the shorter ones that were.
        """
        measured = {length: self._shares[of, length] for of, length in self._shares if of == rows}
        most = min((r.middle for length, r in measured.items() if length > drafted), default=None)
        if drafted in measured:
            share = measured[drafted].middle
        else:
            shorter = max((length for length in measured if length < drafted), default=0)
            known = measured[shorter].middle if shorter else GUESS / rows
            share = known + GUESS_EACH / rows * (drafted - shorter)
        return max(share if most is None else min(share, most), LEAST * drafted)
