"""Integer weights of which several inputs share a scale: what AWQ, GPTQ and others come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from helexa.engine.kernels.int4_groups import (
    block_rows,
    group_of_operator,
    int4_product,
    pack_nibbles,
    scale_table,
)
from helexa.engine.kernels.matvec import Scratch
from helexa.engine.kernels.narrow_product import tile_product
from helexa.engine.kernels.stored_matrix import StoredMatrix
from helexa.engine.memory import SMALL_MATRIX
from helexa.engine.quant.on_device import for_device
from helexa.engine.quant.stack import stack
from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight

ROWS = 64
"""Rows of a block, where torch's operator does not say otherwise."""
PIECE = 2**20
"""So many numbers are repacked at once, or one block."""
GPU_TILE = 2**26
"""Numbers that are expanded at once on a GPU."""
MOST_ALIKE = 128
"""So many inputs in a row that share a scale are all that kernels for GPUs make use of."""
MIDDLE = 8
"""Numbers of fewer than 4 bits are kept around this one, where the operator rounds least."""
FEW = 16
"""Up to so many rows are multiplied by the operator for 4 bits: more cost more than expanding."""


class Codes(Protocol):
    """The integers of a stored matrix."""

    def __call__(self, start: int, stop: int) -> Tensor:
        """Rows start … stop: [stop − start, K] uint8, columns in the order of the inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """A stored matrix [rows, K] of weights (code − zero − shift) · scale.

    ``scale`` [G, rows] has any plain dtype, ``zero`` [G, rows] is uint8, None: 0. ``group`` inputs
    in a row share them, or those to which ``index`` [K] gives the same number. ``name`` is the
    matrix's in messages.
    """

    name: str
    rows: int
    bits: int
    codes: Codes
    scale: Tensor
    zero: Tensor | None
    shift: int
    group: int
    index: Tensor | None = None

    def fits_below(self, above: Groups) -> bool:
        """Whether both can be parts of one weight."""
        return (
            (self.bits > 4) == (above.bits > 4)
            and (self.zero is None) == (above.zero is None)
            and (self.shift, self.group, len(self.scale))
            == (above.shift, above.group, len(above.scale))
            and self.scale.dtype == above.scale.dtype
            and same(self.index, above.index)
        )


@dataclass(frozen=True, slots=True, eq=False)
class GroupWeight:
    """A matrix [N, K] of integers with a scale for each group of inputs.

    Its rows are in B blocks of R, padded with zeros: ``codes`` is [B, K, R] uint8, or [B, K, R/2]
    with two numbers in a byte (see `kernels.int4_groups`); ``scale`` and ``zero`` are [G, B·R], a
    weight being (code − zero − shift) · scale. ``order`` [K] says which input a column is, None:
    its own; ``groups`` [K] which group a column is in, None: G equal ones. ``table`` lets the
    operator for 4 bits multiply; ``bfloat16``: what is expanded is multiplied in it.
    """

    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    shift: int
    order: Tensor | None
    groups: Tensor | None
    table: Tensor | None
    scratch: Scratch
    bfloat16: bool

    @property
    def nbytes(self) -> int:
        held = (self.codes, self.scale, self.zero, self.order, self.groups, self.table)
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    @property
    def block_rows(self) -> int:
        """R."""
        return self.scale.shape[1] // len(self.codes)

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], float32."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of the matrix, float32."""
        size, columns = self.block_rows, self.shape[1]
        first, last = start // size, -(-stop // size)
        out = torch.empty((last - first) * size, columns, device=self.codes.device)
        back = None if self.order is None else self.order.argsort()
        memory = Scratch()  # of its own: others may be multiplying
        for at, end, tile in self.tiles(memory, first, last):
            part = tile.transpose(1, 2).reshape(-1, columns)
            out[at - first * size : end - first * size] = part if back is None else part[:, back]
        return out[start - first * size : stop - first * size]

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        if self.order is not None:
            x = x.index_select(1, self.order)
        if self.table is not None and len(x) <= FEW:
            return int4_product(x, self.codes, self.table)[:, : self.shape[0]]
        rows, product = tile_product(x, bfloat16=self.bfloat16)
        out = x.new_empty(len(rows), self.scale.shape[1])
        for start, stop, tile in self.tiles(self.scratch):
            if len(tile) == 1 and x.dtype == tile.dtype:
                out[:, start:stop] = product(rows, tile[0].T)
            else:
                part = torch.matmul(x, tile.to(x.dtype))  # [b, T, R]
                out[: len(x), start:stop] = part.transpose(0, 1).flatten(1)
        return out[: len(x), : self.shape[0]]

    def stored(self) -> StoredMatrix:
        """The matrix for kernels (see `quant.on_device`), the inputs of an output side by side."""
        count, columns = len(self.scale), self.shape[1]
        held = (self.zero, self.groups, self.order)
        tensors = [self.codes.transpose(1, 2).contiguous(), self.scale]
        places = [0, 0, 0]
        for i, tensor in enumerate(held):
            if tensor is not None:
                places[i] = len(tensors)
                tensors.append(tensor)
        alike = 1 if self.groups is not None else math.gcd(columns // count, MOST_ALIKE)
        shared = self.block_rows // self.codes.shape[2]
        rest = (count, self.shift, int(self.zero is not None), places[1], alike)
        sizes = (shared, self.block_rows, places[2], *rest)
        return StoredMatrix("groups", tuple(tensors), self.shape, sizes)

    def tiles(
        self, scratch: Scratch, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Blocks first … last, a few at a time: their rows' start and stop, [b, K, R] float32.

        On a CPU a block at a time, each in the same working memory.
        """
        on_cpu = self.codes.device.type == "cpu"
        rows, columns = self.block_rows, self.shape[1]
        step = 1 if on_cpu else max(1, GPU_TILE // (rows * columns))
        for block in range(first, len(self.codes) if last is None else last, step):
            part = self.codes[block:last][:step]
            shape = (len(part), columns, rows)
            if on_cpu:
                tile = scratch.tile(columns, rows).view(shape)
            else:
                tile = torch.empty(shape, device=part.device)
            if part.shape[-1] == rows:
                tile.copy_(part)
            else:
                tile[..., : rows // 2].copy_(part & 15)
                tile[..., rows // 2 :].copy_(part >> 4)
            start, stop = block * rows, (block + len(part)) * rows
            self.scaled(tile, start, stop)
            yield start, stop, tile

    def scaled(self, tile: Tensor, start: int, stop: int) -> None:
        """Turn the codes [b, K, R] of some rows into weights, in place."""
        blocks, columns, rows = tile.shape

        def of_blocks(values: Tensor) -> Tensor:  # [G, N] → [b, G, R]
            part = values[:, start:stop].float().view(-1, blocks, rows).transpose(0, 1)
            return part if self.groups is None else part.index_select(1, self.groups)

        count = columns if self.groups is not None else len(self.scale)
        grouped = tile.view(blocks, count, columns // count, rows)
        low = self.shift if self.zero is None else of_blocks(self.zero)[:, :, None] + self.shift
        grouped.sub_(low).mul_(of_blocks(self.scale)[:, :, None])


def group_weight(parts: Sequence[Groups], columns: int, numerics: Numerics) -> Weight:
    """Repack stored matrices [rows_i, columns] to one weight, one below the other.

    Those that do not fit become weights of their own. Raises CheckpointError for a group index out
    of range.
    """
    rows = (block_rows() if numerics.device.type == "cpu" else None) or ROWS
    joined: list[list[Groups]] = []
    for part in parts:
        if joined and part.fits_below(above := joined[-1][-1]) and above.rows % rows == 0:
            joined[-1].append(part)
        else:
            joined.append([part])
    made = (repacked(group, columns, rows, numerics) for group in joined)
    return stack([for_device(weight, numerics.plain) for weight in made])


def repacked(parts: Sequence[Groups], columns: int, rows: int, numerics: Numerics) -> GroupWeight:
    """One weight in blocks of ``rows``."""
    first, device = parts[0], numerics.device
    plain, total = numerics.plain, sum(part.rows for part in parts)
    blocks, wide = -(-total // rows), first.bits > 4
    order, groups = arranged(first, columns)
    lift = max(0, MIDDLE - 2 ** (first.bits - 1))
    shape = (blocks, columns, rows if wide else rows // 2)
    codes, at = torch.empty(shape, dtype=torch.uint8, device=device), 0
    step = max(1, PIECE // (rows * columns)) * rows
    if device.type != "cpu":  # as kernels for GPUs read it
        codes = codes.view(blocks, -1, columns).transpose(1, 2)
    for part in parts:
        for start in range(0, part.rows, step):
            piece = part.codes(start, min(part.rows, start + step)) + lift
            piece = padded(piece if order is None else piece[:, order], 0, rows)
            packed = piece.view(-1, rows, columns).transpose(1, 2) if wide else piece
            packed = packed if wide else pack_nibbles(packed, rows)
            codes[at : at + len(packed)] = packed
            at += len(packed)
    scale = padded(torch.cat([part.scale for part in parts], 1), 1, rows)
    zeros = [part.zero for part in parts if part.zero is not None]
    zero = padded(torch.cat(zeros, 1), 1, rows) if zeros else None
    return GroupWeight(
        shape=(total, columns),
        codes=codes,
        scale=scale.to(device),
        zero=None if zero is None else zero.to(device),
        shift=first.shift + lift,
        order=None if order is None else order.to(device),
        groups=None if groups is None else groups.to(device),
        table=None
        if wide or groups is not None
        else fast_table(scale, zero, first, lift, numerics),
        scratch=plain.scratch,
        bfloat16=plain.in_bfloat16 and plain.together * total * columns >= SMALL_MATRIX,
    )


def fast_table(
    scale: Tensor, zero: Tensor | None, part: Groups, lift: int, numerics: Numerics
) -> Tensor | None:
    """The table of the operator for 4 bits, where it may be used and exists."""
    plain = numerics.plain
    wanted = plain.kernels and plain.dtype.itemsize == 2 and numerics.device.type == "cpu"
    size = group_of_operator(part.group)
    if not wanted or size is None or block_rows() is None:
        return None
    low = torch.full_like(scale, part.shift + lift, dtype=torch.float32)
    low = low if zero is None else low + zero
    return scale_table(scale.float(), low, part.group // size)


def arranged(part: Groups, columns: int) -> tuple[Tensor | None, Tensor | None]:
    """The order that brings a group's columns together, and the groups if they are not equal.

    Both [columns], None where they say nothing.
    """
    plain = torch.arange(columns) // part.group
    even = columns % part.group == 0 and columns // part.group == len(part.scale)
    if part.index is None or torch.equal(part.index.long(), plain):
        return None, None if even else plain
    index = part.index.long()
    if index.min() < 0 or index.max() >= len(part.scale):
        raise CheckpointError(
            f"{part.name}: a group index is outside 0 … {len(part.scale) - 1}",
            hint="the file is damaged; fetch the model again",
        )
    sorted_index, order = index.sort(stable=True)
    return order, None if even and torch.equal(sorted_index, plain) else sorted_index


def padded(values: Tensor, dim: int, multiple: int) -> Tensor:
    """With zeros at the end of an axis, so that its length is a multiple."""
    missing = -values.shape[dim] % multiple
    if not missing:
        return values.contiguous()
    shape = list(values.shape)
    shape[dim] = missing
    return torch.cat((values, values.new_zeros(shape)), dim)


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two indices are alike, or both absent."""
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
