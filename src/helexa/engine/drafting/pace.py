"""How long a draft should be: a bet that is paid out of what earlier drafts have saved.

Everything is counted in plain tokens: the time in which a sequence gets one token without drafts.
A draft costs what its tokens add to the step, an accepted token brings one. Nobody bets without
having seen guesses come true, and guesses are watched for nothing while there is no draft. Beyond
that, drafts that never help may cost a sequence of n tokens `allowed(n)` plain tokens, and what it
has gained by earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

START: Final = 0.9
"""What a sequence begins with: 3 % of its first 30 tokens."""
ALLOWANCE: Final = 0.02
"""Of each step's time, for drafts that do not help, once that is more than the start."""
MOST_SAVED: Final = 3.0
"""What one sequence can lose at most when a text stops repeating itself."""
MEMORY: Final = 0.8
"""How much of its weight an experience keeps with the next one."""


def allowed(steps: int) -> float:
    """Plain tokens that drafts may have lost a sequence after so many steps."""
    return max(START, ALLOWANCE * steps)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sequence may risk after so many steps, in plain tokens, and how guesses went.

    Of ``tried`` guessed tokens ``right`` were, the latest counting most. Those behind a wrong one
    do not count: nobody knows what they would have been.
    """

    saved: float = START
    right: float = 0.0
    tried: float = 1.0
    steps: int = 0

    @property
    def likely(self) -> float:
        """How likely the next guess is to be right."""
        return self.right / self.tried

    def stepped(self) -> Pace:
        """After a step, with or without a draft."""
        more = allowed(self.steps + 1) - allowed(self.steps)
        saved = min(MOST_SAVED, self.saved + more)
        return Pace(saved, self.right, self.tried, self.steps + 1)

    def watched(self, guessed: int, right: int) -> Pace:
        """After guesses of which the first ``right`` came true."""
        return Pace(
            saved=self.saved,
            right=self.right * MEMORY + right,
            tried=self.tried * MEMORY + right + (right < guessed),
            steps=self.steps,
        )

    def settled(self, drafted: int, right: int, cost: float) -> Pace:
        """After a draft of which the first ``right`` tokens were; it has cost ``cost``."""
        after = self.watched(drafted, right)
        saved = min(MOST_SAVED, self.saved + right - cost)
        return Pace(saved, after.right, after.tried, self.steps)


def draft_length(pace: Pace, costs: Sequence[float]) -> int:
    """How many tokens to draft: the length that is expected to gain most, 0 if there is none.

    ``costs[k]`` is what a draft of k tokens costs, in plain tokens; there is one for each length
    that is possible. With each token right with probability p if those before it are, k of them
    bring p + p² + … + p^k. A length that cannot be paid is not chosen.
    """
    likely = pace.likely
    best, best_gain, brought, reached = 0, 0.0, 0.0, 1.0
    for length in range(1, len(costs)):
        reached *= likely
        brought += reached
        if costs[length] <= pace.saved and brought - costs[length] > best_gain:
            best, best_gain = length, brought - costs[length]
    return best
