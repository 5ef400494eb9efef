"""Products with matrices of four-bit integers, in the layout of torch's operator for x86 CPUs.

Groups of 32 integers of a row share a scale and an offset. The operator works in bfloat16: rows of
activations, scales, offsets and results are rounded to it, sums are float32. That is a relative
error of about 2⁻⁹, small beside that of four bits, and buys reading 20 bytes for 32 numbers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

GROUP = 32
ROWS = 16
"""The number of rows must be a multiple of this."""
TILE_ROWS = 64
"""Whole tiles of so many rows are laid out one after the other."""
FAST = ("AVX2", "AVX512")
ZERO = 8


def can_int4() -> bool:
    """Whether torch has this operator in a fast version here."""
    return torch.backends.cpu.get_cpu_capability() in FAST


def pack_int4(q: Tensor) -> Tensor:
    """Integers 0 … 15 [N, K] → the operator's layout [N, K / 2] uint8."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)
    return cast("Tensor", packed)


def unpack_int4(packed: Tensor) -> Tensor:
    """The integers [N, K] uint8: products with rows that are zero but for a single one."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    unit = torch.tensor([1.0, 0.0], dtype=torch.bfloat16).expand(columns // GROUP, rows, 2)
    out = torch.empty(rows, columns, dtype=torch.uint8)
    for start in range(0, columns, rows):
        few = torch.zeros(min(rows, columns - start), columns, dtype=torch.bfloat16)
        few.diagonal(start).fill_(1)
        out[:, start : start + rows] = _product(few, packed, unit.contiguous()).T + ZERO
    return out


def int4_scales(scale: Tensor, offset: Tensor | None, zero: int) -> Tensor:
    """Scales and offsets [N, K / 32] of values scale · (q − zero) + offset, as the operator wants.

    → [K / 32, N, 2] bfloat16; there it is scale · (q − 8) + offset.
    """
    shifted = scale * (ZERO - zero)
    if offset is not None:
        shifted += offset
    return torch.stack([scale.T, shifted.T], -1).bfloat16()


def int4_product(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """x @ Wᵀ: x [T, K] float32, a matrix from `pack_int4` and `int4_scales` → [T, N] float32."""
    return _product(x.bfloat16(), packed, scales).float()


def _product(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)
    return cast("Tensor", out)
