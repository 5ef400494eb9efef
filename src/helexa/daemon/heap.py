"""Memory that requests have left, given back to the system while a daemon runs."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

import anyio
import anyio.to_thread

EVERY_S = 5.0


def heap_trimmer() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`, None with another C library.

    Between answers to many clients at once, the heap grows by holes that fit nothing that is asked
    for; glibc keeps their pages for ever unless told otherwise. It takes about a millisecond.
    """
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return None
    return trim


async def keep_heap_small(every_s: float = EVERY_S) -> None:
    """Free what nobody reaches and give free pages back, again and again, until cancelled.

    asyncio leaves a reference cycle for each connection, and Python looks for those that are not
    young only after some ten thousand. What the process is made of by now is left out of that
    search: it stays anyway, and looking at it would stop the daemon for a tenth of a second.
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
