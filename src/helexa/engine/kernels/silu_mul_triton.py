"""`silu_mul` on a GPU as one kernel.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = tl.constexpr(1024)
"""Outputs of a program."""


def silu_mul_on_device(x: Tensor) -> Tensor:
    """`silu_mul`: x [T, 2N], contiguous → [T, N] in x's dtype, rounded once."""
    rows, both = x.shape
    out = x.new_empty((rows, both // 2))
    grid = rows, triton.cdiv(both // 2, COLUMNS.value)
    silu_mul_kernel[grid](x, out, both // 2, **FUSING)
    return out


@triton.jit
def silu_mul_kernel(x: tl.tensor, out: tl.tensor, size: tl.constexpr) -> None:
    """Some columns of a row: x [T, 2N] → out [T, N]; ``size`` is N."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    place = x + row * (2 * size) + column
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + size, mask=inside, other=0.0).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up
    tl.store(out + row * size + column, product.to(out.dtype.element_ty), mask=inside)
