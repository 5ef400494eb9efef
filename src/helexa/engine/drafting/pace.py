"""How long a draft should be: a bet that is paid out of what earlier drafts have saved.

Everything is counted in plain tokens: the time in which a sequence gets one token without drafts.
A draft costs what its tokens add to the step, an accepted token brings one. Nobody bets without
having seen guesses come true, and guesses are watched for nothing while there is no draft. Beyond
that, drafts that never help may cost a sequence of n tokens `allowed(n)` plain tokens, where they
seem sure to help `limit(n)`, and what it has gained by earlier ones. Looks cost, too: where steps
are so short that it shows, there are fewer as long as they do not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

START: Final = 0.9
"""What a sequence begins with: 3 % of its first 30 tokens."""
ALLOWANCE: Final = 0.01
"""Of each step's time, for drafts that do not help, once that is more than the start."""
LIMIT: Final = 0.015
"""The same for drafts that are made while guesses come true all the time. What is left of 3 % is
for looking, and for costs that were learned wrong."""
SURE: Final = 8
"""So many of them in a row."""
MOST_SAVED: Final = 3.0
"""What one sequence can lose at most when a text stops repeating itself."""
MARGIN: Final = 0.2
"""Of a draft's cost, that it must promise to gain on top: estimates look best when they err."""
PATIENCE: Final = 8
"""After so many looks without a draft that paid a text is looked at less often, unless a quotation
may have begun: the last guesses were right. With ``SURE`` of them and no draft, these are too dear
for any text."""
MEMORY: Final = 0.95
"""How much of its weight an experience keeps with the next one."""


def allowed(steps: int) -> float:
    """Plain tokens that drafts may have lost a sequence after so many steps."""
    return max(START, ALLOWANCE * steps)


def limit(steps: int) -> float:
    """Plain tokens that drafts may have lost a sequence in any case."""
    return max(START, LIMIT * steps)


@dataclass(frozen=True, slots=True)
class Experience:
    """Of ``tried`` guesses ``right`` were, the latest counting most."""

    right: float
    tried: float

    @property
    def likely(self) -> float:
        """How likely the next one is to be right."""
        return self.right / self.tried

    def extended(self, right: bool) -> Experience:
        """With one more guess."""
        return Experience(self.right * MEMORY + right, self.tried * MEMORY + 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sequence may risk after so many steps, in plain tokens, and how guesses went.

    A text is quoted for a while or not at all: a guess behind one that was right is likelier to be
    right than another, so there is an experience of each kind. ``streak`` counts how many have been
    right in a row by now, ``vain`` the looks since a draft brought more than it cost.
    """

    saved: float = START
    steps: int = 0
    first: Experience = Experience(0.0, 1.0)
    later: Experience = Experience(0.0, 1.0)
    streak: int = 0
    vain: int = 0

    def rests(self, steps: int, rest: int, cheapest: float) -> bool:
        """Whether the text is left alone, which nobody has looked at for so many steps.

        About ``rest`` of them are left out between two looks where these do not pay, or where no
        draft could be paid, the ``cheapest`` not even if it seemed sure. Not always as many, or
        what comes in turns would be met at the same turn each time.
        """
        if steps >= rest - self.vain % 2:
            return False
        in_vain = self.vain >= PATIENCE and not 0 < self.streak < SURE
        return in_vain or self.saved + self.reserve < cheapest

    @property
    def reserve(self) -> float:
        """What a draft may cost beyond what is saved if it seems sure to help."""
        return limit(self.steps) - allowed(self.steps)

    @property
    def purse(self) -> float:
        """What the next draft may cost."""
        return self.saved + self.reserve if self.streak >= SURE else self.saved

    def stepped(self, count: int = 1) -> Pace:
        """After so many steps, with or without a draft."""
        steps = self.steps + count
        more = allowed(steps) - allowed(self.steps)
        saved = min(MOST_SAVED, self.saved + more)
        return Pace(saved, steps, self.first, self.later, self.streak, self.vain)

    def watched(self, guessed: int, right: int) -> Pace:
        """After a look, and guesses of which the first ``right`` came true.

        Those behind a wrong one do not count: nobody knows what they would have been. To have no
        guess is to have lost the thread.
        """
        vain = self.vain + 1
        if not guessed:
            return replace(self, streak=0, vain=vain)
        first, later, streak = self.first, self.later, self.streak
        for index in range(min(right + 1, guessed)):
            true = index < right
            if streak:
                later = later.extended(true)
            else:
                first = first.extended(true)
            streak = streak + 1 if true else 0
        return Pace(self.saved, self.steps, first, later, streak, vain)

    def settled(self, drafted: int, right: int, cost: float) -> Pace:
        """After a draft of which the first ``right`` tokens were; it has cost ``cost``."""
        saved = min(MOST_SAVED, self.saved + right - cost)
        after = self.watched(drafted, right)
        return replace(after, saved=saved, vain=0 if right > cost else after.vain)


def draft_length(pace: Pace, costs: Sequence[float], *, redone: bool = False) -> int:
    """How many tokens to draft: the length that is expected to gain most, 0 if there is none.

    ``costs[k]`` is what a draft of k tokens costs, in plain tokens; there is one for each length
    that is possible. With its first token right with probability p, and each other with q if those
    before it are, k of them bring p · (1 + q + … + q^(k-1)). A length that cannot be paid is not
    chosen. ``redone``: after a wrong draft the step is repeated as far as it was right.
    """
    likely = (pace.later if pace.streak else pace.first).likely
    purse = pace.purse
    best, best_gain, brought, lost, reached = 0, 0.0, 0.0, 0.0, 1.0
    for length in range(1, len(costs)):
        if redone:
            lost += reached * (1 - likely) * costs[length]
        reached *= likely
        brought += reached
        likely = pace.later.likely
        gain = brought - (costs[length] + lost) * (1 + MARGIN)
        if costs[length] <= purse and gain > best_gain:
            best, best_gain = length, gain
    return best
