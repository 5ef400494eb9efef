"""Compiled functions of one row, or of a few rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from helexa.engine.kernels.compiled import MOST_SUMS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler, Kernel

FEW = 4
"""They cost little more than one row in 16 bits, and half of what four by themselves do in 4."""


class Plan(NamedTuple):
    """The ``sizes`` of which kernels are made, in rows: missing ones are padded.

    A loop makes at most ``sums``. Up to ``most`` rows this is faster than what is done with many.
    """

    sizes: tuple[int, ...] = (1, FEW)
    sums: int = MOST_SUMS
    most: int = 4 * FEW


PLAIN = Plan()


class FewRows(NamedTuple):
    """A function's kernels, by the rows they take, ascending; and what they get besides rows.

    They take any number of them, and are the fastest way for up to ``most``.
    """

    kernels: tuple[tuple[int, Kernel], ...]
    tensors: tuple[Tensor, ...]
    most: int

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Arguments [T, …] each, as many at a time as go → what the function returns, [T, …]."""
        count, (most, _) = len(rows[0]), self.kernels[-1]
        if count <= most:
            size, kernel = next(one for one in self.kernels if count <= one[0])
            found = as_tuple(kernel(*(padded_rows(part, size) for part in rows), *self.tensors))
            return found if count == size else tuple(part[:count] for part in found)
        parts = zip(*(torch.split(part, most) for part in rows), strict=True)
        return tuple(torch.cat(same) for same in zip(*(self(*part) for part in parts), strict=True))

    def want(self) -> None:
        """Have all of them compiled."""
        for _, kernel in self.kernels:
            kernel.wanted = True


def few_rows(
    compiler: Compiler,
    function: Callable[..., Any],
    statics: tuple[Hashable, ...],
    example: Callable[[int], list[Tensor]],
    tensors: tuple[Tensor, ...],
    plan: Plan = PLAIN,
) -> FewRows:
    """The kernels of a function; ``example`` makes rows, ``tensors`` follow them."""

    def kernel(rows: int) -> Kernel:
        examples = [*example(rows), *tensors]
        return compiler.kernel(function, statics, examples, sums=plan.sums)

    return FewRows(tuple((rows, kernel(rows)) for rows in plan.sizes), tensors, plan.most)


def padded_rows(x: Tensor, rows: int) -> Tensor:
    """x [T, …] with rows of zeros behind it, contiguous."""
    missing = rows - len(x)
    return F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)) if missing else x.contiguous()


def as_tuple(found: Any) -> tuple[Tensor, ...]:
    """What a function returns, be it one tensor or several."""
    return tuple(found) if isinstance(found, tuple | list) else (found,)
