"""`experts_definition` on a GPU for plain matrices, without the host learning who was chosen.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
Shapes: T tokens, E experts, k of them chosen per token, P = T · k pairs, hidden sizes H and I.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.experts import tile_plan, weighted_sum
from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = tl.constexpr(64)
"""Outputs of a tile."""
DEPTH = tl.constexpr(64)
"""Inputs that a tile takes at a time."""
FEW_ROWS, MANY_ROWS = 16, 64
"""Rows of a tile: the fewest a matrix unit takes, and enough to make up for reading a matrix."""


def experts_on_device(
    x: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """`experts_definition` for experts that lie one after another in two tensors.

    x [T, H], chosen [T, k], shares [T, k], gate_up [E, 2I, H] and down [E, H, I], all contiguous
    → [T, H] in x's dtype, each product accumulated in float32. Pairs of a token and an expert are
    sorted by expert and cut into tiles of rows that share one; both products run over the tiles.
    """
    (tokens, k), (experts, hidden, size) = chosen.shape, down.shape
    pairs = tokens * k
    rows = MANY_ROWS if 2 * pairs >= MANY_ROWS * experts else FEW_ROWS
    order, tiles = tile_plan(chosen, experts, rows)
    middle, out = x.new_empty((pairs, size)), x.new_empty((pairs, hidden))
    grid = len(tiles), triton.cdiv(size, COLUMNS.value)
    gate_up_kernel[grid](x, gate_up, middle, order, tiles, (hidden, size, k, rows), **FUSING)
    grid = len(tiles), triton.cdiv(hidden, COLUMNS.value)
    down_kernel[grid](middle, down, out, order, tiles, (hidden, size, rows), **FUSING)
    return weighted_sum(out, shares)


@triton.jit
def gate_up_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    order: tl.tensor,
    tiles: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """One tile of silu(gate) · up: x [T, H], weight [E, 2I, H] → out [P, I] in sorted order.

    ``shape`` is (H, I, k, rows of a tile).
    """
    hidden: tl.constexpr = shape[0]
    size: tl.constexpr = shape[1]
    k: tl.constexpr = shape[2]
    rows: tl.constexpr = shape[3]
    expert = tl.load(tiles + 3 * tl.program_id(0)).to(tl.int64)
    row = tl.load(tiles + 3 * tl.program_id(0) + 1) + tl.arange(0, rows)
    there = row < tl.load(tiles + 3 * tl.program_id(0) + 2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = column < size
    token = (tl.load(order + row, mask=there, other=0) // k).to(tl.int64)
    base = weight + expert * (2 * size * hidden)
    gate = tl.zeros((rows, COLUMNS), tl.float32)
    up = tl.zeros((rows, COLUMNS), tl.float32)
    for start in range(0, hidden, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = depth < hidden
        read = inside[:, None] & wanted[None, :]
        a = tl.load(
            x + token[:, None] * hidden + depth[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        place = base + column[None, :] * hidden + depth[:, None]
        b = tl.load(place, mask=read, other=0.0)
        gate = tl.dot(a, b, gate, input_precision="ieee")
        b = tl.load(place + size * hidden, mask=read, other=0.0)
        up = tl.dot(a, b, up, input_precision="ieee")
    tl.store(
        out + row[:, None].to(tl.int64) * size + column[None, :],
        (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty),
        mask=there[:, None] & wanted[None, :],
    )


@triton.jit
def down_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    order: tl.tensor,
    tiles: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """One tile of the second product: x [P, I] in sorted order, weight [E, H, I] → out [P, H].

    ``out`` is in the order of pairs again; ``shape`` is (H, I, rows of a tile).
    """
    hidden: tl.constexpr = shape[0]
    size: tl.constexpr = shape[1]
    rows: tl.constexpr = shape[2]
    expert = tl.load(tiles + 3 * tl.program_id(0)).to(tl.int64)
    row = tl.load(tiles + 3 * tl.program_id(0) + 1) + tl.arange(0, rows)
    there = row < tl.load(tiles + 3 * tl.program_id(0) + 2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = column < hidden
    base = weight + expert * (hidden * size)
    total = tl.zeros((rows, COLUMNS), tl.float32)
    for start in range(0, size, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = depth < size
        a = tl.load(
            x + row[:, None].to(tl.int64) * size + depth[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        b = tl.load(
            base + column[None, :] * size + depth[:, None],
            mask=inside[:, None] & wanted[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision="ieee")
    pair = tl.load(order + row, mask=there, other=0).to(tl.int64)
    tl.store(
        out + pair[:, None] * hidden + column[None, :],
        total.to(out.dtype.element_ty),
        mask=there[:, None] & wanted[None, :],
    )
