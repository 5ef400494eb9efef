"""Sums of partial sums on a GPU as one kernel.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUMBERS = tl.constexpr(1024)
"""Sums of a program."""


def joined(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """``parts.sum(0).to(dtype)``: parts [S, T, N] float32, contiguous → [T, N].

    Added in order, whatever T is. Torch needs two operators for it and writes the sums twice.
    """
    count, rows, size = parts.shape
    out = parts.new_empty((rows, size), dtype=dtype)
    grid = (triton.cdiv(rows * size, NUMBERS.value),)
    joined_kernel[grid](parts, out, count, rows * size, **FUSING)
    return out


@triton.jit
def joined_kernel(parts: tl.tensor, out: tl.tensor, count: tl.tensor, size: tl.tensor) -> None:
    """Some numbers of parts [count, size] → out [size]."""
    place = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    inside = place < size
    total = tl.zeros((NUMBERS,), tl.float32)
    for _ in range(count):
        total += tl.load(parts + place, mask=inside, other=0.0)
        parts += size
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)
