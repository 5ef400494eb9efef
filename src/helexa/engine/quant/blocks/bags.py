"""Weights in two to eight bits, laid out as tables of embedding bags."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from helexa.engine.kernels.bags import bag_sums, bags, empty_table, fill_table, read_table
from helexa.engine.kernels.matvec import TILE_BYTES
from helexa.engine.kernels.narrow_product import tile_product
from helexa.engine.quant.blocks.block_type import BlockType

PLANES = {2: (2,), 3: (4,), 4: (4,), 5: (4, 2), 6: (4, 2), 8: (8,)}
"""In tables of how many bits integers of so many bits are kept, the lowest first."""
CHUNK_ROWS = 4096
ROWS = 4
"""The number of rows must be a multiple of this."""
FEW = 12
"""Up to so many rows of activations the bags are faster, which do each row by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some rows of a matrix: ``count`` of them, from ``start``.

    One table [K, …] for each of PLANES; ``scale`` and ``offset`` [K / group, n] float16.
    """

    start: int
    count: int
    tables: tuple[Tensor, ...]
    scale: Tensor
    offset: Tensor | None

    @property
    def nbytes(self) -> int:
        small = self.offset.nbytes if self.offset is not None else 0
        return sum(table.nbytes for table in self.tables) + self.scale.nbytes + small


@dataclass(frozen=True, slots=True, eq=False)
class BagWeight:
    """A matrix ``shape`` = [N, K] whose columns are the rows of tables (see `kernels.bags`).

    ``bfloat16``: what is expanded is multiplied in it.
    """

    type: BlockType
    chunks: tuple[Chunk, ...]
    shape: tuple[int, int]
    bfloat16: bool

    @property
    def nbytes(self) -> int:
        return sum(chunk.nbytes for chunk in self.chunks)

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, float32."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        first, last = start // ROWS * ROWS, -(-stop // ROWS) * ROWS
        parts = [
            self.expanded(chunk, low - chunk.start, high - low)
            for chunk in self.chunks
            for low, high in [(max(first, chunk.start), min(last, chunk.start + chunk.count))]
            if low < high
        ]
        return torch.cat(parts, -1).T[start - first : stop - first].contiguous()

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        product = self.few_rows if len(x) <= FEW else self.many
        return product(x)[:, : self.shape[0]]

    def few_rows(self, x: Tensor) -> Tensor:
        """The product by bags."""
        group = self.type.group
        of = bags(len(x), self.shape[1], group)
        total = x.view(len(x), -1, group).sum(-1)
        outs = []
        for chunk in self.chunks:
            sums = None
            for table, bits, shift in planes(self.type, chunk.tables):
                part = bag_sums(x * (1 << shift), table, bits, of)
                sums = part if sums is None else sums.add_(part)
            assert sums is not None
            y = sums.mul_(chunk.scale).sum(1)
            outs.append(y if chunk.offset is None else y.add_(total @ chunk.offset.float()))
        return outs[0] if len(outs) == 1 else torch.cat(outs, -1)

    def many(self, x: Tensor) -> Tensor:
        """The product by expanding a few rows at a time to float32."""
        rows = sum(chunk.count for chunk in self.chunks)
        step = max(ROWS, TILE_BYTES // (4 * self.shape[1]) // ROWS * ROWS)
        count, (x, product) = len(x), tile_product(x, bfloat16=self.bfloat16)
        out = torch.empty(len(x), rows)
        for chunk in self.chunks:
            for start in range(0, chunk.count, step):
                size = min(step, chunk.count - start)
                at = chunk.start + start
                tile = self.expanded(chunk, start, size)
                out[:, at : at + size] = product(x, tile.T)
        return out[:count]

    def expanded(self, chunk: Chunk, start: int, count: int) -> Tensor:
        """Some rows of a chunk, transposed: → [K, count] float32."""
        q = None
        for table, bits, shift in planes(self.type, chunk.tables):
            part = read_table(table, start, count, bits) << shift
            q = part if q is None else q.bitwise_or_(part)
        assert q is not None
        out = q.float().sub_(self.type.zero).view(-1, self.type.group, count)
        out *= chunk.scale[:, None, start : start + count]
        if chunk.offset is not None:
            out += chunk.offset[:, None, start : start + count]
        return out.flatten(0, 1)


def planes(type: BlockType, tables: tuple[Tensor, ...]) -> list[tuple[Tensor, int, int]]:
    """Each table, its bits, and by how many bits its integers are to be shifted."""
    widths = PLANES[type.bits]
    shifts = (sum(widths[:i]) for i in range(len(widths)))
    return list(zip(tables, widths, shifts, strict=True))


class BagSink:
    """Takes rows of blocks and lays them out."""

    def __init__(self, type: BlockType, rows: int, columns: int) -> None:
        self.type = type
        self.shape = (rows, columns)
        padded = -(-rows // ROWS) * ROWS
        starts = range(0, padded, CHUNK_ROWS)
        self.chunks = tuple(self.empty(a, min(CHUNK_ROWS, padded - a)) for a in starts)

    def empty(self, start: int, count: int) -> Chunk:
        columns, widths = self.shape[1], PLANES[self.type.bits]
        biases = (-self.type.zero, *[0] * (len(widths) - 1))
        tables = tuple(
            empty_table(columns, count, bits, bias)
            for bits, bias in zip(widths, biases, strict=True)
        )
        scale = torch.zeros(columns // self.type.group, count, dtype=torch.float16)
        offset = None if self.type.zero else torch.zeros_like(scale)
        return Chunk(start, count, tables, scale, offset)

    def fill(self, start: int, blocks: Tensor) -> None:
        """Rows [n, bytes]; start a multiple of 64, and n too unless these are the last."""
        stop = start + len(blocks)
        for chunk in self.chunks:
            first, last = max(start, chunk.start), min(stop, chunk.start + chunk.count)
            if first < last:
                self.fill_chunk(chunk, first - chunk.start, blocks[first - start : last - start])

    def fill_chunk(self, chunk: Chunk, at: int, blocks: Tensor) -> None:
        q, scale, offset = self.type.grouped(blocks)
        chunk.scale[:, at : at + len(q)] = scale.T
        if chunk.offset is not None and offset is not None:
            chunk.offset[:, at : at + len(q)] = offset.T
        if missing := -len(q) % ROWS:
            q = torch.cat([q, q.new_zeros(missing, q.shape[1])])
        for table, bits, shift in planes(self.type, chunk.tables):
            fill_table(table, at, (q >> shift) & ((1 << bits) - 1), bits)

    def weight(self, *, bfloat16: bool) -> BagWeight | None:
        """The finished weight, or None if float16 does not hold a scale."""
        kept = [part for c in self.chunks for part in (c.scale, c.offset) if part is not None]
        if not all(part.isfinite().all() for part in kept):
            return None
        return BagWeight(self.type, self.chunks, self.shape, bfloat16)


def can_split(type: BlockType, *, exact: bool) -> bool:
    """Whether there are tables for such integers, and float16 holds the scales exactly if it must.

    It does where a block is one group: its scale is stored so.
    """
    return type.bits in PLANES and not (exact and type.elements != type.group)
