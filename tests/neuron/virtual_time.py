"""An asyncio loop whose clock jumps, as trio has in its testing module."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]  # a platform's
    """Instead of sleeping until a timer is due, remembers that so much time has passed."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else 0.05)
        if not ready and timeout:
            self.passed_s += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the sum of all it was asked to sleep."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed_s
