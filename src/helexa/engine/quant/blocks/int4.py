"""Weights of four-bit formats with groups of 32, laid out for torch's operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from helexa.engine.kernels.int4 import (
    GROUP,
    ROWS,
    TILE_ROWS,
    ZERO,
    int4_product,
    int4_scales,
    pack_int4,
    unpack_int4,
)
from helexa.engine.quant.blocks.block_type import BlockType, Groups, values


@dataclass(frozen=True, slots=True, eq=False)
class Int4Weight:
    """A matrix ``shape`` = [N, K], see `kernels.int4`; N is rounded up in what is stored.

    ``packed`` [N', K / 2] uint8, ``scales`` [K / 32, N', 2] bfloat16.
    """

    packed: Tensor
    scales: Tensor
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scales.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, float32."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        first, last = start // TILE_ROWS * TILE_ROWS, -(-stop // TILE_ROWS) * TILE_ROWS
        scale, offset = self.scales[:, first:last].float().transpose(0, 1).unbind(-1)
        parts = Groups(unpack_int4(self.packed[first:last]), scale, offset)
        return values(parts, ZERO)[start - first : stop - first]

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        return int4_product(x, self.packed, self.scales)[:, : self.shape[0]]


class Int4Sink:
    """Takes rows of blocks and lays them out."""

    def __init__(self, type: BlockType, rows: int, columns: int) -> None:
        self.type = type
        self.shape = (rows, columns)
        padded = -(-rows // ROWS) * ROWS
        self.packed = torch.empty(padded, columns // 2, dtype=torch.uint8)
        self.scales = torch.zeros(columns // GROUP, padded, 2, dtype=torch.bfloat16)

    def fill(self, start: int, blocks: Tensor) -> None:
        """Rows [n, bytes]; start a multiple of 64, and n too unless these are the last."""
        q, scale, offset = self.type.grouped(blocks)
        stop = start + len(q)
        self.scales[:, start:stop] = int4_scales(scale, offset, self.type.zero)
        if missing := -len(q) % ROWS:
            q = torch.cat([q, q.new_zeros(missing, q.shape[1])])
        self.packed[start : start + len(q)] = pack_int4(q)

    def weight(self) -> Int4Weight | None:
        """The finished weight, or None if bfloat16 does not hold a scale."""
        if not self.scales.isfinite().all():
            return None
        return Int4Weight(self.packed, self.scales, self.shape)


def fits_int4(type: BlockType) -> bool:
    """Whether this layout is for integers and groups of that size."""
    return type.bits == 4 and type.group == GROUP
