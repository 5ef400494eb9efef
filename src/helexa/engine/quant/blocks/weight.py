"""Weights in block formats: kept as they are, or laid out for an operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from helexa.engine.kernels.bags import can_bag
from helexa.engine.kernels.matvec import TILE_BYTES, Scratch
from helexa.engine.kernels.stored_matrix import BLOCKS, StoredMatrix
from helexa.engine.memory import SMALL_MATRIX
from helexa.engine.quant.blocks.bags import BagSink, can_split
from helexa.engine.quant.blocks.block_type import BlockType
from helexa.engine.quant.blocks.int4 import Int4Sink, int4_rows
from helexa.engine.quant.blocks.lanes import LaneSink
from helexa.engine.quant.blocks.rows import BlockRows
from helexa.engine.quant.dense import DenseFormat, FloatWeight
from helexa.engine.quant.on_device import for_device
from helexa.engine.quant.weight import Weight

GPU_TILE_BYTES = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class BlockWeight:
    """A matrix [N, K] as rows of blocks [N, bytes] uint8.

    Products expand a few rows at a time to float32 (on a GPU to the activations' format): exact,
    as far as sums of float32 are.
    """

    type: BlockType
    blocks: Tensor
    scratch: Scratch

    @property
    def shape(self) -> tuple[int, int]:
        rows, row_bytes = self.blocks.shape
        return rows, row_bytes // self.type.nbytes * self.type.elements

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K] float32."""
        return self.type.matrix(self.blocks)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        return self.type.matrix(self.blocks[start:stop])

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        rows, columns = self.shape
        on_cpu = self.blocks.device.type == "cpu"
        step = max(1, (TILE_BYTES if on_cpu else GPU_TILE_BYTES) // (4 * columns))
        out = x.new_empty(len(x), rows)
        for start in range(0, rows, step):
            tile = self.type.matrix(self.blocks[start : start + step])
            out[:, start : start + step] = F.linear(x, tile.to(x.dtype))
        return out

    def stored(self) -> StoredMatrix | None:
        """The matrix for kernels (see `quant.on_device`)."""
        if self.type.name not in BLOCKS:
            return None
        return StoredMatrix(self.type.name, (self.blocks,), self.shape)


@dataclass(frozen=True, slots=True)
class BlockSink:
    """Rows of blocks [N, bytes] that are kept as they come."""

    blocks: Tensor

    def fill(self, start: int, blocks: Tensor) -> None:
        self.blocks[start : start + len(blocks)] = blocks


@dataclass(frozen=True, slots=True)
class MatrixSink:
    """A float32 matrix [N, K]."""

    type: BlockType
    matrix: Tensor

    def fill(self, start: int, blocks: Tensor) -> None:
        self.matrix[start : start + len(blocks)] = self.type.matrix(blocks)


def fast_weight(rows: BlockRows, dense: DenseFormat) -> Weight | None:
    """The matrix laid out for the fastest operator there is for it here; None if there is none.

    Small ones become float32, as all do that take no time to read (see `quant.dense`). With
    ``dense.dtype`` float32 only layouts that round nothing are taken.
    """
    if not dense.kernels or dense.device.type != "cpu":
        return None
    count, columns = rows.shape
    if dense.together * count * columns < SMALL_MATRIX:
        small = MatrixSink(rows.type, torch.empty(count, columns))
        rows.write(small)
        return FloatWeight(small.matrix)
    exact = dense.dtype == torch.float32
    if dense.compiler is not None:
        lanes = LaneSink(rows.type, count, columns, on_large_pages=dense.large_pages)
        rows.write(lanes, lanes.form.rows)
        return lanes.weight(dense.compiler, torch.bfloat16 if dense.in_bfloat16 else torch.float32)
    if not exact and (size := int4_rows(rows.type)):
        nibbles = Int4Sink(rows.type, count, columns, size)
        rows.write(nibbles)
        return nibbles.weight()
    if can_bag() and can_split(rows.type, exact=exact):
        bags = BagSink(rows.type, count, columns)
        rows.write(bags)
        return bags.weight(bfloat16=dense.in_bfloat16)
    return None


def kept_weight(rows: BlockRows, dense: DenseFormat) -> Weight:
    """The matrix as blocks in memory of their own, on the device."""
    count, columns = rows.shape
    sink = BlockSink(torch.empty(count, rows.type.row_bytes(columns), dtype=torch.uint8))
    rows.write(sink)
    return for_device(BlockWeight(rows.type, sink.blocks.to(dense.device), dense.scratch), dense)
