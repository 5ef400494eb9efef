"""Memory that requests have left, given back to the system while a daemon runs."""

from __future__ import annotations

import gc
from collections.abc import Callable

import anyio
import anyio.to_thread

from helexa.heap import heap_trimmer

EVERY_S = 5.0


async def keep_heap_small(every_s: float = EVERY_S) -> None:
    """Free what nobody reaches and give free pages back, again and again, until cancelled.

    Between answers to many clients at once, the heap grows by holes. asyncio leaves a reference
    cycle for each connection, and Python looks for those that are not young only after some ten
    thousand. What the process is made of by now is left out of that search: it stays anyway, and
    looking at it would stop the daemon for a tenth of a second.
    """
    trim = heap_trimmer()
    gc.freeze()
    try:
        while True:
            await anyio.sleep(every_s)
            await anyio.to_thread.run_sync(_tidy, trim)
    finally:
        gc.unfreeze()


def _tidy(trim: Callable[[int], int] | None) -> None:
    gc.collect()
    if trim is not None:
        trim(0)
