"""Torch's allocators: what they refuse, told as Python tells it, and what they keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from helexa.engine.memory import MIB

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


def unused_mb(device: str) -> float:
    """MiB of a GPU that torch has claimed and nothing uses just now; 0 for host memory."""
    if not device.startswith("cuda"):
        return 0.0
    return (torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / MIB
