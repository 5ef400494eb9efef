"""What choosing tokens asks of logits, on a GPU in a few kernels instead of dozens of operators.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
Shapes: R rows of logits of N blocks of 128 (see `ranking.Blocks`), M draws from some of them. What
a row gets does not depend on the others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING
from helexa.engine.kernels.stored_matrix import device_of
from helexa.engine.upload import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

BLOCK = tl.constexpr(128)
BLOCKS = tl.constexpr(32)
"""Blocks whose weights one program adds up."""


class Drawn(NamedTuple):
    """A row, what its logits are divided by, its min-p, and a number in [0, 1)."""

    row: int
    temperature: float
    min_p: float
    number: float


def best_on_device(rows: Tensor, maxima: Tensor) -> Tensor:
    """Peaks and best ids of rows [R, N, 128] float32 with their blocks' maxima [R, N].

    → [2, R] float64, which holds both exactly. The peak of a row with a NaN is NaN, its id any.
    """
    count, blocks = maxima.shape
    out = rows.new_empty((2, count), dtype=torch.float64)
    shape = blocks, triton.next_power_of_2(blocks)
    with device_of(rows):
        best_kernel[(count,)](rows, maxima, out, shape, num_warps=4, **FUSING)
    return out


def draw_by_kernel(rows: Tensor, peaks: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """`Blocks.mass` and `Blocks.draw` of M rows of [R, N, 128] float32: → [2, M] float64.

    ``peaks`` [R] float64 are the rows' highest logits. Masses leave out what min-p does.
    """
    blocks = rows.shape[1]
    table = [(d.row, math.log2(math.e) / d.temperature, d.min_p, d.number) for d in drawn]
    asked = upload(table, rows.device, torch.float64)
    sums = asked.new_empty((len(drawn), blocks))
    out = asked.new_empty((2, len(drawn)))
    grid = len(drawn), triton.cdiv(blocks, BLOCKS.value)
    shape = blocks, triton.next_power_of_2(blocks)
    with device_of(rows):
        sums_kernel[grid](rows, peaks, asked, sums, blocks, **FUSING)
        draw_kernel[(len(drawn),)](rows, peaks, asked, sums, out, shape, num_warps=4, **FUSING)
    return out


@triton.jit
def best_kernel(rows: tl.tensor, maxima: tl.tensor, out: tl.tensor, shape: tl.constexpr) -> None:
    """One row; ``shape`` is (N, power of 2 ≥ N)."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, shape[1])
    highest = tl.load(maxima + row * shape[0] + lane, mask=lane < shape[0], other=float("-inf"))
    wrong = highest != highest
    peak = tl.max(tl.where(wrong, float("-inf"), highest), 0)
    peak = tl.where(tl.max(wrong.to(tl.int32), 0) > 0, float("nan"), peak)
    block = tl.min(tl.where(highest == peak, lane, shape[0] - 1), 0)
    place = tl.arange(0, BLOCK)
    value = tl.load(rows + (row * shape[0] + block) * BLOCK + place)
    best = block * BLOCK + tl.min(tl.where(value == peak, place, BLOCK - 1), 0)
    tl.store(out + row, peak.to(tl.float64))
    tl.store(out + tl.num_programs(0) + row, best.to(tl.float64))


@triton.jit
def weights(logits: tl.tensor, peak: tl.tensor, asked: tl.tensor) -> tl.tensor:
    """exp((logit - peak) / temperature) in float32; 0 below min-p, all 0 for an infinite peak."""
    finite = tl.abs(peak) < float("inf")
    logits = tl.where(finite, logits, float("-inf"))
    peak = tl.where(finite, peak, 0.0)
    factor = tl.load(asked + 1).to(tl.float32)
    least = tl.load(asked + 2).to(tl.float32)
    weight = tl.exp2((logits - peak) * factor)
    return tl.where(weight >= least, weight, 0.0)


@triton.jit
def sums_kernel(
    rows: tl.tensor, peaks: tl.tensor, asked: tl.tensor, sums: tl.tensor, blocks: tl.tensor
) -> None:
    """Sums of some blocks' weights for one draw → sums [M, N] float64."""
    draw = tl.program_id(0).to(tl.int64)
    asked += 4 * draw
    row = tl.load(asked).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    place = (row * blocks + block[:, None]) * BLOCK + tl.arange(0, BLOCK)[None, :]
    logits = tl.load(rows + place, mask=inside[:, None], other=float("-inf"))
    weight = weights(logits, tl.load(peaks + row).to(tl.float32), asked)
    tl.store(sums + draw * blocks + block, tl.sum(weight.to(tl.float64), 1), mask=inside)


@triton.jit
def fallen_on(sums: tl.tensor, weight: tl.tensor, lane: tl.tensor, target: tl.tensor) -> tl.tensor:
    """The first lane that adds to the running sums and takes them above the target.

    The last one that adds, if none does; 0 if none adds, as with NaN.
    """
    adds = weight > 0.0
    last = tl.max(tl.where(adds, lane, 0), 0)
    return tl.min(tl.where(adds & (sums > target), lane, last), 0)


@triton.jit
def draw_kernel(
    rows: tl.tensor,
    peaks: tl.tensor,
    asked: tl.tensor,
    sums: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """One draw: its mass, and the id that its number falls on; ``shape`` as for the best."""
    draw = tl.program_id(0).to(tl.int64)
    asked += 4 * draw
    row = tl.load(asked).to(tl.int64)
    lane = tl.arange(0, shape[1])
    mass = tl.load(sums + draw * shape[0] + lane, mask=lane < shape[0], other=0.0)
    running = tl.cumsum(mass, 0)
    total = tl.max(running, 0)
    target = tl.load(asked + 3) * total
    block = fallen_on(running, mass, lane, target)
    before = tl.sum(tl.where(lane == block - 1, running, 0.0), 0)
    place = tl.arange(0, BLOCK)
    logits = tl.load(rows + (row * shape[0] + block) * BLOCK + place)
    weight = weights(logits, tl.load(peaks + row).to(tl.float32), asked).to(tl.float64)
    inside = fallen_on(tl.cumsum(weight, 0), weight, place, target - before)
    tl.store(out + draw, total)
    tl.store(out + tl.num_programs(0) + draw, (block * BLOCK + inside).to(tl.float64))
