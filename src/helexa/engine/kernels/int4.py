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
    """The integers [N, K] uint8 of a packed matrix."""
    return torch.cat([_unpack_tile(tile) for tile in torch.split(packed, TILE_ROWS)])


def _unpack_tile(tile: Tensor) -> Tensor:
    rows, columns = tile.shape[0], 2 * tile.shape[1]
    out = torch.empty(rows * columns, dtype=torch.uint8)
    out[_places(rows, columns)] = _nibbles(tile)
    return out.view(rows, columns)


def _places(rows: int, columns: int) -> Tensor:
    """Where each nibble of a packed tile belongs in the matrix: found by packing the places."""
    count = rows * columns
    numbers = torch.arange(count).view(rows, columns)
    found = torch.zeros(count, dtype=torch.int64)
    for shift in range(0, count.bit_length(), 4):
        found |= _nibbles(pack_int4((numbers >> shift) & 15)).long() << shift
    return found


def _nibbles(packed: Tensor) -> Tensor:
    return torch.stack([packed & 15, packed >> 4], -1).flatten()


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
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), packed, GROUP, scales)
    return cast("Tensor", out).float()
