"""Waiting for another thread without guessing how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return as soon as ``condition`` holds; fail after ``timeout_s``.

    What takes long is looked at less often: it needs the processor itself.
    """
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, "the condition did not come true"
        time.sleep(0.002 + 0.018 * min(waited_s, 1.0))
