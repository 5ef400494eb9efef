"""Time that leaves out what this process has slept through."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_S = 2.0


class AwakeClock:
    """Seconds while this process ran, for one that looks several times a second.

    A process that was stopped, or a machine that was put to sleep, finds itself much later than it
    left: others were stopped with it, and have not been silent any longer than it has waited.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()
        self._awake_s = 0.0
        self.slept_s = 0.0
        """What was left out so far."""

    def __call__(self) -> float:
        """Seconds awake since this object was made."""
        now = self._clock()
        passed = now - self._last_s
        self._last_s = now
        counted = passed if passed < MOST_S else 0.0
        self._awake_s += counted
        self.slept_s += passed - counted
        return self._awake_s
