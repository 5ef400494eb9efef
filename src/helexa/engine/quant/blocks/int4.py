"""Weights of four-bit formats with groups of 32, laid out for torch's operator.

It works in bfloat16 (see `kernels.int4_groups`): a relative error of about 0.003, small beside
that of four bits, which buys reading 20 bytes for 32 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from helexa.engine.kernels.int4_groups import block_rows, int4_product, pack_nibbles
from helexa.engine.quant.blocks.block_type import BlockType, Groups, values
from helexa.engine.quant.blocks.rows import PIECE_ROWS

GROUP = 32
MIDDLE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Int4Weight:
    """A matrix ``shape`` = [N, K] in B blocks of R rows, padded.

    ``packed`` [B, K, R/2] uint8 and ``table`` [K / 32, B·R, 2] bfloat16, scales and what stands for
    the integer 8.
    """

    packed: Tensor
    table: Tensor
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.table.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, float32."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        size = 2 * self.packed.shape[2]
        first, last = start // size, -(-stop // size)
        packed = self.packed[first:last]
        q = torch.cat([packed & 15, packed >> 4], -1).transpose(1, 2).reshape(-1, self.shape[1])
        table = self.table[:, first * size : last * size].float().transpose(0, 1)
        found = values(Groups(q, *table.unbind(-1)), MIDDLE)
        return found[start - first * size : stop - first * size]

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        return int4_product(x, self.packed, self.table)[:, : self.shape[0]]


class Int4Sink:
    """Takes rows of blocks and lays them out in blocks of ``size`` rows."""

    def __init__(self, type: BlockType, rows: int, columns: int, size: int) -> None:
        self.type = type
        self.shape = (rows, columns)
        self.size = size
        count = -(-rows // size)
        self.packed = torch.empty(count, columns, size // 2, dtype=torch.uint8)
        self.table = torch.zeros(columns // GROUP, count * size, 2, dtype=torch.bfloat16)

    def fill(self, start: int, blocks: Tensor) -> None:
        """Rows [n, bytes]; start a multiple of 64, and n too unless these are the last."""
        q, scale, offset = self.type.grouped(blocks)
        middle = scale * (MIDDLE - self.type.zero)
        if offset is not None:
            middle += offset
        self.table[:, start : start + len(q)] = torch.stack([scale.T, middle.T], -1)
        if missing := -len(q) % self.size:
            q = torch.cat([q, q.new_zeros(missing, q.shape[1])])
        packed = pack_nibbles(q, self.size)
        first = start // self.size
        self.packed[first : first + len(packed)] = packed

    def weight(self) -> Int4Weight | None:
        """The finished weight, or None if bfloat16 does not hold a scale."""
        if not self.table.isfinite().all():
            return None
        return Int4Weight(self.packed, self.table, self.shape)


def int4_rows(type: BlockType) -> int | None:
    """R, if the operator is here and for integers and groups of that size."""
    size = block_rows() if type.bits == 4 and type.group == GROUP else None
    return size if size is not None and PIECE_ROWS % size == 0 else None
