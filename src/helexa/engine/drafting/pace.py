"""How long a draft should be: a bet that is paid out of what earlier drafts have saved.

Everything is counted in plain tokens: the time in which a sequence gets one token without drafts.
A draft costs what its tokens add to the step, an accepted token brings one. Each step puts aside a
small part of a token, and nothing else may be lost: so drafts that never help cost that part, and
what a sequence begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALLOWANCE: Final = 0.01
"""Of each step's time, for drafts that do not help."""
START: Final = 0.5
MOST_SAVED: Final = 2.0
"""What one sequence can lose at most when a text stops repeating itself."""
PROBE_TOKENS: Final = 2
"""A draft that is expected to lose finds out with so many tokens whether it still does."""
MEMORY: Final = 0.8
"""How much of its weight an experience keeps with the next draft."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sequence may risk, in plain tokens, and how its latest drafts went.

    Of ``tried`` drafted tokens ``right`` were, the latest counting most. Those behind a wrong one
    do not count: nobody knows what they would have been.
    """

    saved: float = START
    right: float = 1.0
    tried: float = 2.0

    def stepped(self) -> Pace:
        """After a step, with or without a draft."""
        return Pace(min(MOST_SAVED, self.saved + ALLOWANCE), self.right, self.tried)

    def settled(self, drafted: int, accepted: int, cost: float) -> Pace:
        """After a draft of which the first ``accepted`` tokens were right; it has cost ``cost``."""
        return Pace(
            saved=min(MOST_SAVED, self.saved + accepted - cost),
            right=self.right * MEMORY + accepted,
            tried=self.tried * MEMORY + accepted + (accepted < drafted),
        )


def draft_length(pace: Pace, costs: Sequence[float]) -> int:
    """How many tokens to draft: the length that is expected to gain most, 0 if there is none.

    ``costs[k]`` is what a draft of k tokens costs, in plain tokens; there is one for each length
    that is possible. With each token right with probability p if those before it are, k of them
    bring p + p² + … + p^k. Where no length gains, a short one is tried as soon as it can be paid.
    """
    if len(costs) < 2 or pace.saved < costs[1]:
        return 0
    likely = pace.right / pace.tried
    best, best_gain, brought, reached = 0, 0.0, 0.0, 1.0
    for length in range(1, len(costs)):
        reached *= likely
        brought += reached
        if costs[length] <= pace.saved and brought - costs[length] > best_gain:
            best, best_gain = length, brought - costs[length]
    probe = min(PROBE_TOKENS, len(costs) - 1)
    return best or (probe if costs[probe] <= pace.saved else 0)
