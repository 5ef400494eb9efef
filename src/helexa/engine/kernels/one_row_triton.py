"""The definitions of `kernels.one_row` on a GPU, where such a product costs reading the matrix.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING, processors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TILE = 4096
"""Weights that a program reads at a time: 64 bytes for each of its threads."""
MOST_COLUMNS = 8
PROGRAMS = 4
"""So many programs a processor should have, or each gets fewer outputs."""


class Tiles(NamedTuple):
    """What a kernel is compiled for: N outputs and K inputs, and how many are taken at a time.

    ``whole`` is the power of 2 ≥ K. ``gated``: see `normed_product_definition`; N is halved then.
    """

    outputs: int
    inputs: int
    columns: int
    depth: int
    whole: int
    gated: bool


def normed_product(
    x: Tensor, norm: tuple[Tensor, Tensor], weight: Tensor, *, gated: bool = False
) -> Tensor:
    """`normed_product_definition`: each program computes the norm for itself."""
    tiles = tiles_of(weight, x.device, gated=gated)
    out = x.new_empty((1, tiles.outputs))
    grid = (triton.cdiv(tiles.outputs, tiles.columns),)
    normed_kernel[grid](x, *norm, weight, out, tiles, **FUSING)
    return out


def added_product(x: Tensor, weight: Tensor, stream: Tensor) -> None:
    """`added_product_definition`."""
    tiles = tiles_of(weight, x.device)
    grid = (triton.cdiv(tiles.outputs, tiles.columns),)
    added_kernel[grid](x, weight, stream, tiles, **FUSING)


def tiles_of(weight: Tensor, device: torch.device, *, gated: bool = False) -> Tiles:
    """How a product with W [N, K] is divided."""
    outputs, inputs = weight.shape
    outputs = outputs // 2 if gated else outputs
    columns, whole = MOST_COLUMNS, triton.next_power_of_2(inputs)
    while columns > 1 and outputs < columns * PROGRAMS * processors(device):
        columns //= 2
    return Tiles(outputs, inputs, columns, min(whole, TILE // columns), whole, gated)


@triton.jit
def normed_kernel(
    x: tl.tensor,
    gain: tl.tensor,
    floor: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    tiles: tl.constexpr,
) -> None:
    """Some outputs of the normed row: x [K], gain [K], weight [N or 2N, K] → out [N]."""
    lane = tl.arange(0, tiles.whole)
    row = tl.load(x + lane, mask=lane < tiles.inputs, other=0.0).to(tl.float32)
    least = tl.load(floor)
    length = tl.sqrt(tl.sum(row * row, 0) + least * least)
    column = tl.program_id(0) * tiles.columns + tl.arange(0, tiles.columns)
    wanted = column < tiles.outputs
    base = weight + column.to(tl.int64)[:, None] * tiles.inputs
    total = tl.zeros((tiles.columns, tiles.depth), tl.float32)
    other = tl.zeros((tiles.columns, tiles.depth), tl.float32)
    for start in range(0, tiles.inputs, tiles.depth):
        depth = start + tl.arange(0, tiles.depth)
        inside = depth < tiles.inputs
        read = wanted[:, None] & inside[None, :]
        w = tl.load(base + depth[None, :], mask=read, other=0.0).to(tl.float32)
        value = tl.load(x + depth, mask=inside, other=0.0).to(tl.float32)
        value = value / length * tl.load(gain + depth, mask=inside, other=0.0)
        value = value.to(x.dtype.element_ty).to(tl.float32)  # rounded where the definition rounds
        total += w * value[None, :]
        if tiles.gated:
            place = base + tiles.outputs * tiles.inputs + depth[None, :]
            w = tl.load(place, mask=read, other=0.0).to(tl.float32)
            other += w * value[None, :]
    result = tl.sum(total, 1)
    if tiles.gated:
        result = result * tl.sigmoid(result) * tl.sum(other, 1)
    tl.store(out + column, result.to(out.dtype.element_ty), mask=wanted)


@triton.jit
def added_kernel(x: tl.tensor, weight: tl.tensor, stream: tl.tensor, tiles: tl.constexpr) -> None:
    """Some outputs: stream [N] += weight [N, K] · x [K]."""
    column = tl.program_id(0) * tiles.columns + tl.arange(0, tiles.columns)
    wanted = column < tiles.outputs
    base = weight + column.to(tl.int64)[:, None] * tiles.inputs
    total = tl.zeros((tiles.columns, tiles.depth), tl.float32)
    for start in range(0, tiles.inputs, tiles.depth):
        depth = start + tl.arange(0, tiles.depth)
        inside = depth < tiles.inputs
        read = wanted[:, None] & inside[None, :]
        w = tl.load(base + depth[None, :], mask=read, other=0.0).to(tl.float32)
        value = tl.load(x + depth, mask=inside, other=0.0).to(tl.float32)
        total += w * value[None, :]
    before = tl.load(stream + column, mask=wanted, other=0.0).to(tl.float32)
    result = before + tl.sum(total, 1)
    tl.store(stream + column, result.to(stream.dtype.element_ty), mask=wanted)
