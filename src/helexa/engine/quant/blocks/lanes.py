"""Weights in two to eight bits, laid out for compiled loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.lanes import (
    LANES,
    Factors,
    Form,
    Lanes,
    expanded,
    pack_words,
    row_product,
    tile,
)
from helexa.engine.kernels.wide_product import onednn_product, wide_product

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler, Kernel
    from helexa.engine.quant.blocks.block_type import BlockType

TILE_BYTES = 2**20
"""Of a tile that is expanded at once: what a core's cache commonly holds."""
SUMS_BYTES = 2**21
"""Of the sums of groups in one call: they stay in a cache, and in memory that is used again."""
FEW = 3
"""Up to so many rows of activations are multiplied one by one, which costs less than expanding."""


@dataclass(frozen=True, slots=True, eq=False)
class LaneWeight:
    """A matrix ``shape`` = [N, K] in the layout of `kernels.lanes`.

    One row is multiplied with one of ``parts`` after the other: the first block of each, and what
    `row_product` wants of it. Many rows are multiplied in ``dtype``, ``tile_blocks`` at a time.
    """

    form: Form
    lanes: Lanes
    parts: tuple[tuple[int, tuple[Tensor, ...]], ...]
    shape: tuple[int, int]
    dtype: torch.dtype
    tile_blocks: int
    one_row: Kernel
    tile: Kernel

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.lanes.tensors())

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, float32."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        size, columns = self.form.rows, self.shape[1]
        first, last = start // size, -(-stop // size)
        lanes = self.lanes.blocks(first, last)
        parts = [expanded(self.form, lanes, place) for place in range(self.form.places)]
        found = torch.stack([part.transpose(1, 2) for part in parts], 1).reshape(-1, columns)
        return found[start - first * size : stop - first * size]

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(x) > FEW:
            return self.many(x)
        x = x.contiguous()
        size = self.form.rows
        if len(self.parts) == len(x) == 1:
            found: Tensor = self.one_row(x, *self.parts[0][1])
            return found[:, : self.shape[0]]
        out = x.new_empty(len(x), len(self.lanes.words) * size)
        for row in range(len(x)):
            for first, tensors in self.parts:
                y = self.one_row(x[row : row + 1], *tensors)
                out[row, first * size : first * size + y.shape[1]] = y[0]
        return out[:, : self.shape[0]]

    def many(self, x: Tensor) -> Tensor:
        """The product by expanding a few blocks at a time."""
        size, blocks = self.form.rows, len(self.lanes.words)
        out = x.new_empty(len(x), blocks * size)
        rounded = x.to(self.dtype)
        product = wide_product if self.dtype == torch.float32 else onednn_product
        for start in range(0, blocks, self.tile_blocks):
            first = min(start, blocks - self.tile_blocks)  # the last one may repeat a little
            last = first + self.tile_blocks
            part = self.tile(*self.lanes.blocks(first, last).wide().tensors())
            out[:, first * size : last * size] = product(rounded, part.T)
        return out[:, : self.shape[0]]


class LaneSink:
    """Takes rows of blocks and lays them out."""

    def __init__(self, type: BlockType, rows: int, columns: int) -> None:
        affine = type.zero == 0
        self.type = type
        self.form = Form(type.bits, type.group, type.zero, type.levels is not None, affine)
        self.shape = (rows, columns)
        blocks = -(-rows // self.form.rows)
        groups, whole = columns // type.group, columns // type.elements
        counts = (blocks, self.form.places, LANES)

        def factors(fine: torch.dtype) -> Factors:
            coarse = torch.zeros(counts[0], whole, *counts[1:], dtype=torch.float16)
            if not self.form.fine:
                return Factors(coarse)
            return Factors(coarse, torch.zeros(counts[0], groups, *counts[1:], dtype=fine))

        self.lanes = Lanes(
            torch.empty(blocks, columns, LANES, dtype=torch.int32),
            factors(torch.uint8 if affine else torch.int8),
            factors(torch.uint8) if affine else None,
        )

    def fill(self, start: int, blocks: Tensor) -> None:
        """Rows [n, bytes]; start a multiple of a block's rows, n too unless these are the last."""
        q, scale, offset = self.type.grouped(blocks)
        first = start // self.form.rows
        count = -(-len(blocks) // self.form.rows)
        lanes = self.lanes.blocks(first, first + count)
        lanes.words.copy_(pack_words(self.padded(q), self.form))
        if self.type.levels is None:
            self.put(lanes.scale.coarse, scale)
            if lanes.offset is not None and offset is not None:
                self.put(lanes.offset.coarse, offset)
            return
        levels = self.type.levels(blocks.view(len(blocks), -1, self.type.nbytes))
        pairs = [(lanes.scale, levels.scale, levels.scales)]
        if lanes.offset is not None and levels.low is not None and levels.lows is not None:
            pairs.append((lanes.offset, -levels.low, levels.lows))
        for factors, coarse, fine in pairs:
            self.put(factors.coarse, coarse.flatten(1))
            assert factors.fine is not None
            self.put(factors.fine, fine.flatten(1))

    def put(self, place: Tensor, values: Tensor) -> None:
        """Write values [n, G] of some rows to where their blocks have them, [b, G, P, 16]."""
        rows = self.padded(values).view(len(place), self.form.places, LANES, -1)
        place.copy_(rows.permute(0, 3, 1, 2))

    def padded(self, values: Tensor) -> Tensor:
        """With rows of zeros, to whole blocks."""
        missing = -len(values) % self.form.rows
        if not missing:
            return values
        return torch.cat([values, values.new_zeros(missing, values.shape[1])])

    def weight(self, compiler: Compiler, dtype: torch.dtype) -> LaneWeight:
        """The finished weight; products of many rows are computed in ``dtype``."""
        columns, form = self.shape[1], self.form
        blocks = len(self.lanes.words)
        count = max(1, min(blocks, TILE_BYTES // (form.rows * columns * dtype.itemsize)))
        sums_bytes = 4 * form.rows * columns // form.group
        calls = -(-blocks * sums_bytes // SUMS_BYTES)
        each = -(-blocks // calls)
        firsts = [min(first, blocks - each) for first in range(0, blocks, each)]  # may overlap
        units = form.units()
        parts = [
            (first, (units, *self.lanes.blocks(first, first + each).tensors())) for first in firsts
        ]
        example = [torch.empty(1, columns), *parts[0][1]]
        part = self.lanes.blocks(0, count).wide().tensors()
        return LaneWeight(
            form=form,
            lanes=self.lanes,
            parts=tuple(parts),
            shape=self.shape,
            dtype=dtype,
            tile_blocks=count,
            one_row=compiler.kernel(row_product, (form,), example),
            tile=compiler.kernel(tile, (form, dtype), part),
        )
