"""The C library's heap: what it keeps of memory that is free, and giving that back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers for these two settings, by `malloc.h`."""
KEPT_BYTES = 2**27
"""Free memory that is kept for what comes next, at most."""
OWN_BYTES = 2**26
"""What takes so many is asked of the system, and given back to it at once."""


def heap_trimmer() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`, None with another C library.

    The heap grows by holes that fit nothing that is asked for; glibc keeps their pages for ever
    unless told otherwise. It takes about a millisecond.
    """
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return None
    return trim


def keep_working_memory() -> bool:
    """Let the C library keep what a step of a model leaves; whether it is one that can be told.

    By itself glibc gives all large blocks back as soon as they are free, and each of their pages
    costs a fault when it is written again: a fifth of the time that a CPU took for a prompt.
    """
    if sys.platform != "linux":
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(tell(TRIM_THRESHOLD, KEPT_BYTES) and tell(MMAP_THRESHOLD, OWN_BYTES))
