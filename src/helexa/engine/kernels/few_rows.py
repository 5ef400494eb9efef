"""Compiled functions of one row, or of a few rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler, Kernel

FEW = 4
"""Rows that are computed together where there is more than one; missing ones are padded.

Four cost 1 (16 bit) to 3 (4 bit) times what one does, on an AMD EPYC.
"""
MOST = 8
"""Rows up to which this is faster than expanding the matrix once for all of them."""


class FewRows(NamedTuple):
    """A kernel for one row, if there is one, and one for `FEW`; and what they get besides rows."""

    one: Kernel | None
    few: Kernel
    tensors: tuple[Tensor, ...]

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Arguments [T, …] each, T up to `FEW` at a time → what the function returns, [T, …]."""
        count = len(rows[0])
        if count == 1 and self.one is not None:
            return as_tuple(self.one(*rows, *self.tensors))
        if count <= FEW:
            padded = (padded_rows(part, FEW) for part in rows)
            return tuple(part[:count] for part in as_tuple(self.few(*padded, *self.tensors)))
        parts = zip(*(torch.split(part, FEW) for part in rows), strict=True)
        return tuple(torch.cat(same) for same in zip(*(self(*part) for part in parts), strict=True))

    def want(self) -> None:
        """Have both compiled."""
        for kernel in (self.one, self.few):
            if kernel is not None:
                kernel.wanted = True


def few_rows(
    compiler: Compiler,
    function: Callable[..., Any],
    statics: tuple[Hashable, ...],
    example: Callable[[int], list[Tensor]],
    tensors: tuple[Tensor, ...],
) -> FewRows:
    """Both kernels of a function; ``example`` makes rows, ``tensors`` follow them."""
    one, few = (compiler.kernel(function, statics, [*example(rows), *tensors]) for rows in (1, FEW))
    return FewRows(one, few, tensors)


def padded_rows(x: Tensor, rows: int) -> Tensor:
    """x [T, …] with rows of zeros behind it, contiguous."""
    missing = rows - len(x)
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)) if missing else x.contiguous()


def as_tuple(found: Any) -> tuple[Tensor, ...]:
    """What a function returns, be it one tensor or several."""
    return tuple(found) if isinstance(found, tuple | list) else (found,)
