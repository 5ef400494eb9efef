"""What happens often and is worth a line in the log only now and then."""

from __future__ import annotations

import math
from collections.abc import Callable

PERIOD_S = 60.0


class Occasional:
    """Lets one of many equal events through, then none for ``period_s``, and counts them all."""

    def __init__(self, clock: Callable[[], float], period_s: float = PERIOD_S) -> None:
        self._clock = clock
        self._period_s = period_s
        self._told_s = -math.inf
        self._count = 0

    def happened(self) -> int:
        """How many there were since this last said so; 0 if that was just now."""
        self._count += 1
        now = self._clock()
        if now - self._told_s < self._period_s:
            return 0
        count, self._count, self._told_s = self._count, 0, now
        return count
