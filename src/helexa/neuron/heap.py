"""Memory that requests have left free, given back to the system."""

from __future__ import annotations

import ctypes
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
    """Give free pages back again and again, from a thread, as long as this is not cancelled."""
    trim = heap_trimmer()
    while trim is not None:
        await anyio.sleep(every_s)
        await anyio.to_thread.run_sync(trim, 0)
