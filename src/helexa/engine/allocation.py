"""Memory that the host refuses, told as Python tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CPU_ALLOCATOR: Final = "DefaultCPUAllocator: "


@contextmanager
def refusals_as_memory_errors() -> Iterator[None]:
    """Raise MemoryError where torch's allocator of host memory fails.

    For a GPU torch raises OutOfMemoryError; for the host it is a plain RuntimeError, which only
    its text tells from others: "[…] DefaultCPUAllocator: can't allocate memory: you tried to […]".
    """
    try:
        yield
    except RuntimeError as error:
        if CPU_ALLOCATOR not in str(error):
            raise
        raise MemoryError(str(error)) from error
