"""`experts_definition` on a GPU for matrices in any format, without the host learning the choice.

Shapes: T tokens, E experts, k of them chosen per token, P = T · k pairs, hidden sizes H and I.
Needs triton; see `kernels.products_triton`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.experts import tile_plan, weighted_sum
from helexa.engine.kernels.products_triton import (
    DECODERS,
    LEAST_ROWS,
    has_units,
    layout_of,
    options,
    sums,
    tiles_of,
)
from helexa.engine.kernels.silu_mul import silu_mul
from helexa.engine.kernels.stored_experts import MixedExperts
from helexa.engine.kernels.tiles_triton import outputs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.kernels.stored_experts import Addresses, StoredExperts

MANY_ROWS = 64
"""Rows of a tile that make up for reading a matrix."""
SPARSE = 4
"""Pairs are computed one by one while they are at most one for so many experts."""
TYPES = MappingProxyType(
    {
        torch.uint8: tl.uint8,
        torch.int64: tl.int64,
        torch.float32: tl.float32,
        torch.float16: tl.float16,
        torch.bfloat16: tl.bfloat16,
    }
)
"""What triton calls the dtypes of stored tensors."""


class Route(NamedTuple):
    """Which rows a kernel reads and writes, and how it finds an expert's matrix.

    ``per_row`` pairs in a row read one row of activations; 0: the plan's order is also theirs.
    ``scatter``: pairs are written to their own places, not to those of the plan's order. Rows of
    the output are ``width`` numbers, those of this matrix begin at ``offset``. ``types`` are those
    of the matrix's tensors, ``alignment`` that of their addresses in bytes.
    """

    per_row: int
    scatter: bool
    width: int
    offset: int
    types: tuple[tl.dtype, ...]
    alignment: int


def experts_as_stored(
    x: Tensor, chosen: Tensor, shares: Tensor, experts: StoredExperts | MixedExperts
) -> Tensor:
    """`experts_definition`: x [T, H], chosen [T, k], shares [T, k] → [T, H] in x's dtype.

    Each product is accumulated in float32. A few pairs of a token and an expert are computed one by
    one; more are sorted by expert and cut into tiles of rows that share one. Experts of several
    kinds are run kind by kind, each on the pairs that it has.
    """
    if not chosen.numel():
        return torch.zeros_like(x)
    x = x.contiguous()
    out = x.new_empty((chosen.numel(), x.shape[1]))
    if isinstance(experts, MixedExperts):
        for kind, numbers in zip(experts.kinds, experts.numbers, strict=True):
            run_kind(x, numbers[chosen], kind, out, by_pair=False)
    else:
        few = SPARSE * chosen.numel() <= experts.count or len(x) == 1
        run_kind(x, chosen, experts, out, by_pair=few)
    return weighted_sum(out, shares)


def run_kind(
    x: Tensor, chosen: Tensor, experts: StoredExperts, out: Tensor, *, by_pair: bool
) -> None:
    """Run each pair of a token and an expert → its row of ``out`` [P, H].

    Where ``chosen`` is E no expert is meant, and the row left as it is: not if run ``by_pair``.
    """
    pairs, k = chosen.numel(), chosen.shape[1]
    if by_pair:
        rows = 1
        plan: tuple[Tensor, ...] = (chosen.flatten(),)
    else:
        many = 2 * pairs >= MANY_ROWS * experts.count and has_units(x)
        rows = MANY_ROWS if many else LEAST_ROWS
        plan = tile_plan(chosen, experts.count, rows)
    size = experts.down[0].first.shape[1]
    both = x.new_empty((pairs, 2 * size))
    run(x, both, experts.gate_up, plan, (rows, k))
    run(silu_mul(both), out, experts.down, plan, (rows, 0))


def run(
    x: Tensor,
    out: Tensor,
    parts: Sequence[Addresses],
    plan: tuple[Tensor, ...],
    shape: tuple[int, int],
) -> None:
    """Products of x with each of the parts → out [P, ΣN]; ``shape`` is (rows, per_row)."""
    (rows, per_row), offset = shape, 0
    for part in parts:
        matrix = part.first
        layout = layout_of(matrix, rows, units=has_units(x))
        types = tuple(TYPES[tensor.dtype] for tensor in matrix.tensors)
        route = Route(
            per_row, rows > 1 and not per_row, out.shape[1], offset, types, part.alignment
        )
        grid = (len(plan[-1]), tiles_of(layout))
        decode = DECODERS[matrix.decoder].function
        experts_kernel[grid](x, out, part.table, plan, decode, layout, route, **options(rows))
        offset += layout.outputs


@triton.jit
def found(table: tl.tensor, expert: tl.tensor, route: tl.constexpr) -> tl.tensor:
    """Pointers to an expert's tensors."""
    alignment: tl.constexpr = route.alignment
    count: tl.constexpr = len(route.types)
    matrix = ()
    for i in tl.static_range(count):
        address = tl.load(table + expert * count + i)
        at = address.to(tl.pointer_type(route.types[i]))
        pointer = tl.multiple_of(at, alignment)
        matrix = matrix + (pointer,)  # type: ignore[assignment]  # noqa: RUF005 - all triton reads
    return matrix


@triton.jit
def experts_kernel(
    x: tl.tensor,
    out: tl.tensor,
    table: tl.tensor,
    plan: tl.tensor,
    decode: tl.constexpr,
    layout: tl.constexpr,
    route: tl.constexpr,
) -> None:
    """Rows of x times a tile of their expert's matrix → out [P, width].

    ``plan`` is (experts [P],) where each pair is by itself, else (order [P], tiles [n, 3]).
    """
    program = tl.program_id(0)
    tile = tl.program_id(1)
    steps: tl.constexpr = tl.cdiv(layout.inputs, layout.depth * layout.parts)
    if layout.rows == 1:
        expert = tl.load(plan[0] + program)
        row = program + tl.arange(0, 1)
        there = row >= 0
        pair = row
        last = steps
    else:
        expert = tl.load(plan[1] + 3 * program)
        first = tl.load(plan[1] + 3 * program + 1)
        end = tl.load(plan[1] + 3 * program + 2)
        row = first + tl.arange(0, layout.rows)
        there = row < end
        pair = tl.load(plan[0] + row, mask=there, other=0)
        last = tl.where(first < end, steps, 0)  # nothing is read for tiles that are left over
    source = pair // route.per_row if route.per_row else row
    matrix = found(table, expert.to(tl.int64), route)
    at = x + source.to(tl.int64) * layout.inputs
    total = sums(at, there, matrix, tile, (0, last), decode, layout)
    column = outputs_of(tile, layout)
    if route.scatter:
        row = pair
    tl.store(
        out + row.to(tl.int64)[:, None] * route.width + (route.offset + column)[None, :],
        total.to(out.dtype.element_ty),
        mask=there[:, None] & (column < layout.outputs)[None, :],
    )
