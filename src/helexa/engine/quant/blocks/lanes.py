"""Weights in two to eight bits, laid out for compiled loops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.few_rows import FewRows
from helexa.engine.kernels.lanes import (
    LANES,
    PLAN,
    Factors,
    Form,
    Lanes,
    expanded,
    joined_halves,
    lifted,
    pack_words,
    row_product,
    tile,
)
from helexa.engine.kernels.onednn_tiles import ordered_tiles
from helexa.engine.kernels.wide_product import onednn_product, padded, wide_product
from helexa.engine.quant.large_pages import large_pages
from helexa.engine.quant.weight import Recipe, Traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler
    from helexa.engine.quant.blocks.block_type import BlockType

TILE_BYTES = 2**20
"""Of a tile that is expanded at once: what a core's cache commonly holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """How many rows are multiplied: ``blocks`` of ``rows`` rows are expanded to ``dtype`` at once.

    ``multiply`` takes x [T, K] in that and a tile's `Lanes.tensors`: → [T, blocks · rows]. Unless
    it takes ``any_size``, it is compiled for so many blocks, and the last tile repeats a little.
    """

    multiply: Callable[..., Tensor]
    dtype: torch.dtype
    rows: int
    blocks: int
    any_size: bool

    def product(self, x: Tensor, lanes: Lanes) -> Tensor:
        """x @ Wᵀ with all rows of all blocks: x [T, K] float32 → [T, B · R] float32."""
        count = len(lanes.words)
        rounded = padded(x, self.dtype)
        out = x.new_empty(len(rounded), count * self.rows)
        for start in range(0, count, self.blocks):
            last = min(start + self.blocks, count)
            first = start if self.any_size else last - self.blocks
            part = self.multiply(rounded, *lanes.blocks(first, last).tensors())
            out[:, first * self.rows : last * self.rows] = part
        return out[: len(x)]


def plain_product(expand: Callable[..., Tensor], x: Tensor, *tensors: Tensor) -> Tensor:
    """x @ Wᵀ, x [T, K] in the format to which ``expand`` makes a `tile`: → [T, B · R]."""
    product = wide_product if x.dtype == torch.float32 else onednn_product
    return product(x, expand(*tensors).T)


def tiles_of(lanes: Lanes, form: Form, dtype: torch.dtype, compiler: Compiler) -> Tiles:
    """Tiles of one size, nearly, in oneDNN's order where there can be such."""
    count, columns, _ = lanes.words.shape
    most = max(1, min(count, TILE_BYTES // (form.rows * columns * dtype.itemsize)))
    blocks = -(-count // -(-count // most))
    ordered = None
    if dtype == torch.bfloat16:
        sizes = {size * form.rows for size in (blocks, count % blocks) if size}
        ordered = ordered_tiles(compiler, form, sizes, columns)
    if ordered is not None:
        ordered.wanted = True
        return Tiles(ordered, dtype, form.rows, blocks, any_size=True)
    plain = compiler.kernel(tile, (form, dtype), lanes.blocks(0, blocks).tensors())
    plain.wanted = True
    return Tiles(partial(plain_product, plain), dtype, form.rows, blocks, any_size=False)


@dataclass(frozen=True, slots=True, eq=False)
class LaneWeight:
    """A matrix ``shape`` = [N, K] in the layout of `kernels.lanes`.

    A ``few`` rows are multiplied with the integers, many with ``tiles`` of what they stand for.
    """

    form: Form
    lanes: Lanes
    shape: tuple[int, int]
    traced: Traced
    few: FewRows
    tiles: Tiles

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
        if len(x) > self.few.most:
            return self.tiles.product(x, self.lanes)[:, : self.shape[0]]
        return self.few(x)[0][:, : self.shape[0]]


class LaneSink:
    """Takes rows of blocks and lays them out."""

    def __init__(
        self, type: BlockType, rows: int, columns: int, *, on_large_pages: bool = True
    ) -> None:
        affine = type.zero == 0
        self.type = type
        self.form = Form(type.bits, type.group, type.zero, type.levels is not None, affine)
        self.shape = (rows, columns)
        blocks = -(-rows // self.form.rows)
        groups, whole = columns // type.group, columns // type.elements

        def factors(fine: torch.dtype) -> Factors:
            words = -(-self.form.places // 2)
            coarse = torch.zeros(blocks, whole, words, LANES, dtype=torch.int32)
            if not self.form.fine:
                return Factors(coarse)
            shape = (blocks, groups, self.form.places, LANES)
            return Factors(coarse, torch.zeros(shape, dtype=fine))

        self.lanes = Lanes(
            large_pages((blocks, columns, LANES), torch.int32, wanted=on_large_pages),
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
            self.put(lanes.scale, scale)
            self.put(lanes.offset, offset)
        else:
            levels = self.type.levels(blocks.view(len(blocks), -1, self.type.nbytes))
            self.put(lanes.scale, levels.scale, levels.scales)
            self.put(lanes.offset, None if levels.low is None else -levels.low, levels.lows)

    def put(
        self, factors: Factors | None, coarse: Tensor | None, fine: Tensor | None = None
    ) -> None:
        """Write what some rows share to their blocks' ``factors``; None: there is no such thing.

        ``coarse`` [n, …] has S numbers for a row, ``fine`` [n, …] G.
        """
        if factors is None or coarse is None:
            return
        factors.coarse.copy_(joined_halves(self.by_place(coarse.flatten(1)).half()))
        if factors.fine is not None and fine is not None:
            factors.fine.copy_(self.by_place(fine.flatten(1)))

    def by_place(self, values: Tensor) -> Tensor:
        """Values [n, G] of some rows as their blocks have them: [b, G, P, 16]."""
        rows = self.padded(values)
        return rows.view(-1, self.form.places, LANES, rows.shape[1]).permute(0, 3, 1, 2)

    def padded(self, values: Tensor) -> Tensor:
        """With rows of zeros, to whole blocks."""
        missing = -len(values) % self.form.rows
        if not missing:
            return values
        return torch.cat([values, values.new_zeros(missing, values.shape[1])])

    def weight(self, compiler: Compiler, dtype: torch.dtype) -> LaneWeight:
        """The finished weight; products of many rows are computed in ``dtype``."""
        factors = [part for part in self.lanes[1:] if part is not None]
        form = replace(self.form, lifted=lifted(factors))
        tensors = self.lanes.tensors()
        rows, columns = self.shape
        traced = Traced(Recipe(row_product, (form,), len(tensors), rows, PLAN), tensors)
        few = traced.own_kernels(columns, compiler)
        tiles = tiles_of(self.lanes, form, dtype, compiler)
        return LaneWeight(form, self.lanes, self.shape, traced, few, tiles)
