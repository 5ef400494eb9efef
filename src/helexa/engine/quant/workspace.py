"""Memory that matrices pass through while they are laid out, used again and again."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from mmap import mmap
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class Workspace:
    """Float32 matrices on loan, as many at a time as there are threads that load.

    Memory is zeroed by the system when it is first touched, which takes ten times as long as
    widening a 16-bit matrix into it. So what a loan leaves serves the next one, until ``clear``
    gives it back to the system; the heap would keep it.
    """

    def __init__(self) -> None:
        self.free: list[mmap] = []
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """A copy of it has memory of its own."""
        return Workspace, ()

    @contextmanager
    def matrix(self, rows: int, columns: int) -> Iterator[Tensor]:
        """An uninitialised matrix [rows, columns], until the end of the block."""
        count = rows * columns
        room = self._take(4 * count)
        try:
            yield torch.frombuffer(room, dtype=torch.float32, count=count).view(rows, columns)
        finally:
            with self.lock:
                self.free.append(room)

    def clear(self) -> None:
        """Give back what is not on loan."""
        with self.lock:
            self.free.clear()

    def _take(self, nbytes: int) -> mmap:
        with self.lock:
            found = self.free.pop() if self.free else None
        if found is None or len(found) < nbytes:  # a smaller one goes back to the system
            found = mmap(-1, nbytes)
        return found
