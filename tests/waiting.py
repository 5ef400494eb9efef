"""Waiting for another thread without guessing how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return as soon as ``condition`` holds; fail after ``timeout_s``.

    What takes long is looked at less often: it needs the processor itself.
    """
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, "the condition did not come true"
        time.sleep(0.002 + 0.018 * min(waited_s, 1.0))


def least_s(work: Callable[[], object], times: int = 3) -> float:
    """The processor time of this thread that ``work`` takes, at the least of some times."""

    def once() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return min(once() for _ in range(times))


class Pauses:
    """How long this process was kept from running, at the longest: no fault of what it measures."""

    longest_s = 0.0


@contextmanager
def noting_pauses(every_s: float = 0.01) -> Iterator[Pauses]:
    """Note pauses, of the machine's or of this process, until the block ends."""
    noted, ended = Pauses(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            began = time.monotonic()
            ended.wait(every_s)
            noted.longest_s = max(noted.longest_s, time.monotonic() - began - every_s)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield noted
    finally:
        ended.set()
        watch.join()
