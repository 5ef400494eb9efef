"""Memory that matrices pass through while they are laid out, used again and again."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from helexa.engine.quant.large_pages import large_pages

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
        self.free: list[Tensor] = []
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """A copy of it has memory of its own."""
        return Workspace, ()

    @contextmanager
    def matrix(self, rows: int, columns: int) -> Iterator[Tensor]:
        """An uninitialised matrix [rows, columns], until the end of the block."""
        count = rows * columns
        room = self._take(count)
        try:
            yield room[:count].view(rows, columns)
        finally:
            with self.lock:
                self.free.append(room)

    def clear(self) -> None:
        """Give back what is not on loan."""
        with self.lock:
            self.free.clear()

    def _take(self, count: int) -> Tensor:
        with self.lock:
            found = self.free.pop() if self.free else None
        if found is None or len(found) < count:  # a smaller one goes back to the system
            found = large_pages((count,), torch.float32)
        return found
