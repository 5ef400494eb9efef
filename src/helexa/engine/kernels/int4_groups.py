"""Products with 4-bit matrices by torch's operator for CPUs, in a layout that can be expanded, too.

The layout: blocks of R rows, the matrix transposed within each; a byte holds two rows of a block,
r in its low and r + R/2 in its high half. R depends on the CPU's vectors, so torch is asked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ROWS = (64, 32)
"""R with AVX-512, and with AVX2."""
GROUPS = (256, 128, 64, 32)
"""How many columns may share a scale."""


def pack_nibbles(codes: Tensor, block_rows: int) -> Tensor:
    """Numbers below 16 [B·R, K] uint8 → [B, K, R/2] in the layout above."""
    rows, columns = codes.shape
    halves = codes.view(rows // block_rows, 2, block_rows // 2, columns)
    return (halves[:, 0] | halves[:, 1] << 4).transpose(1, 2).contiguous()


@cache
def block_rows() -> int | None:
    """R of torch's operator on this CPU; None where it has none, or no fast one."""
    codes = torch.arange(64 * 64).view(64, 64) * 7 % 16
    try:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    except (RuntimeError, AttributeError):
        return None
    for rows in BLOCK_ROWS:
        if torch.equal(pack_nibbles(codes.to(torch.uint8), rows).view(packed.shape), packed):
            return rows
    return None


def group_of_operator(group: int) -> int | None:
    """The largest group size that the operator takes and that divides ``group``."""
    return next((size for size in GROUPS if group % size == 0), None)


def scale_table(scale: Tensor, low: Tensor, repeats: int) -> Tensor:
    """The operator's table [G·repeats, N, 2] of weights (q − 8)·scale + middle, in bfloat16.

    ``scale`` and ``low`` are [G, N] float32, a weight being (q − low)·scale; each group is cut
    into ``repeats``.
    """
    table = torch.stack((scale, (8 - low) * scale), -1).bfloat16()
    return table.repeat_interleave(repeats, 0).contiguous()


def int4_product(x: Tensor, packed: Tensor, table: Tensor) -> Tensor:
    """x @ Wᵀ: x [T, K], packed [B, K, R/2], table [G, N, 2] → [T, N] in x's dtype.

    Rounds x, scales and the result to bfloat16, which is a relative error of 0.003 in all; sums in
    float32.
    """
    groups, rows, _ = table.shape
    columns = packed.shape[1]
    out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
        x.bfloat16().contiguous(), packed.view(rows, columns // 2), columns // groups, table
    )
    return out.to(x.dtype)
