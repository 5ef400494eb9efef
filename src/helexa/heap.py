"""The C library's heap: giving back what it keeps of memory that is free."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


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
