"""Products with matrices that stay in the bytes they are stored in, on a GPU.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
One row of activations is multiplied without matrix units and summed at the end; a few take matrix
units; for many the matrix is expanded a piece at a time, which their product then pays for.
Shapes: T rows of activations, matrix [N, K].
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.blocks_triton import k4_k5, legacy, q2_k, q3_k, q6_k, q8_0
from helexa.engine.kernels.fp8_triton import fp8
from helexa.engine.kernels.groups_triton import groups
from helexa.engine.kernels.joining_triton import joined
from helexa.engine.kernels.launching import FUSING, processors
from helexa.engine.kernels.plain_triton import plain
from helexa.engine.kernels.stored_matrix import Layout
from helexa.engine.kernels.tiles_triton import inputs_of, outputs_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from helexa.engine.kernels.stored_matrix import StoredMatrix

FEW = 64
"""Up to so many rows are multiplied by the bytes as they are stored."""
LEAST_ROWS = 16
"""The fewest rows that matrix units take."""
PROGRAMS, UNIT_PROGRAMS = 8, 4
"""So many programs a processor of the GPU should have, or the inputs are split among more.

With several rows of activations fewer: each split writes and reads a float32 for every sum, which
with eight was a third of what 32 rows by a matrix of Q4_K moved.
"""
LEAST_STEPS = 4
"""Fewer steps than this are no share of a split."""
DEPTH = 128
"""Inputs of a tile: half a block of 256 numbers, or four of 32."""
PIECE_BYTES = 2**26
"""So much of a matrix is expanded at once."""


class Decoder(NamedTuple):
    """A decoder's function and its parts: see `Layout`; ``sizes`` go before those of a matrix."""

    function: Any
    sizes: tuple[int, ...] = ()
    parts: int = 1
    run: int = 0
    depth: int = DEPTH


DECODERS: Mapping[str, Decoder] = MappingProxyType(
    {
        "Q4_0": Decoder(legacy, (18, 4, 0, 8), parts=2, run=16),
        "Q4_1": Decoder(legacy, (20, 4, 1, 0), parts=2, run=16),
        "Q5_0": Decoder(legacy, (22, 5, 0, 16), parts=2, run=16),
        "Q5_1": Decoder(legacy, (24, 5, 1, 0), parts=2, run=16),
        "Q8_0": Decoder(q8_0, (34,)),
        "Q2_K": Decoder(q2_k, (84,), parts=4, run=32, depth=64),
        "Q3_K": Decoder(q3_k, (110,), parts=4, run=32, depth=64),
        "Q4_K": Decoder(k4_k5, (144, 4), parts=2, run=32),
        "Q5_K": Decoder(k4_k5, (176, 5), parts=2, run=32),
        "Q6_K": Decoder(q6_k, (210,), parts=2, run=64),
        "plain": Decoder(plain),
        "fp8": Decoder(fp8),
        "groups": Decoder(groups),
    }
)
"""By the names that `StoredMatrix` uses."""


def layout_of(matrix: StoredMatrix, rows: int, *, units: bool = True) -> Layout:
    """The tiles for ``rows`` of activations at once: 1, or a power of two from LEAST_ROWS on.

    Without matrix ``units`` a program multiplies fewer numbers.
    """
    decoder = DECODERS[matrix.decoder]
    outputs, inputs = matrix.shape
    shared, block, order, sizes = 1, 0, 0, matrix.sizes
    if decoder.function is groups:
        shared, block, order, *rest = sizes
        sizes = tuple(rest)
    columns = 16 if rows == 1 or not units else min(64, 2 * rows)
    return Layout(
        outputs=outputs,
        inputs=inputs,
        rows=rows,
        columns=columns if shared == 1 else min(columns, block),
        depth=decoder.depth,
        parts=decoder.parts,
        run=decoder.run,
        shared=shared,
        block=block,
        order=order,
        sizes=(*decoder.sizes, *sizes),
    )


def expanding(matrix: StoredMatrix) -> Layout:
    """Tiles for writing the weights out: each of outputs that follow one another."""
    layout = layout_of(matrix, LEAST_ROWS)
    return layout if layout.shared == 1 else layout._replace(columns=layout.block)


def product(x: Tensor, matrix: StoredMatrix, splits: int | None = None) -> Tensor:
    """x @ Wᵀ: x [T, K], matrix [N, K] → [T, N] in x's dtype, accumulated in float32.

    ``splits``: among how many programs the inputs of an output are split; None: as many as keep
    the GPU busy. Several rows take weights rounded to x's dtype.
    """
    found = split_product(x, matrix, splits)
    return joined(found, x.dtype) if found.ndim == 3 else found


def split_product(x: Tensor, matrix: StoredMatrix, splits: int | None = None) -> Tensor:
    """`product`, of which the splits [S, T, N] float32 have yet to be added up if there are any."""
    tokens, outputs = len(x), matrix.shape[0]
    if not tokens:
        return x.new_empty((0, outputs))
    units = has_units(x)
    if tokens > (FEW if units else LEAST_ROWS):
        return product_of_many(x, matrix)
    rows = 1 if tokens == 1 else max(LEAST_ROWS, 1 << (tokens - 1).bit_length())
    layout = layout_of(matrix, rows, units=units)
    tiles, steps = tiles_of(layout), steps_of(layout)
    if splits is None:
        programs = (PROGRAMS if rows == 1 else UNIT_PROGRAMS) * processors(x.device)
        splits = max(1, min(programs // tiles, steps // LEAST_STEPS))
    share = -(-steps // splits)
    splits = -(-steps // share)
    dtype = x.dtype if splits == 1 else torch.float32
    out = x.new_empty((splits, tokens, outputs), dtype=dtype)
    decode = DECODERS[matrix.decoder].function
    product_kernel[(splits, tiles)](
        x.contiguous(), out, matrix.tensors, tokens, share, decode, layout, **options(rows)
    )
    return out[0] if splits == 1 else out


def product_of_many(x: Tensor, matrix: StoredMatrix) -> Tensor:
    """`product` by way of pieces of the matrix in x's dtype."""
    outputs, inputs = matrix.shape
    layout = expanding(matrix)
    most = max(1, PIECE_BYTES // (layout.columns * inputs * x.element_size()))
    tiles = tiles_of(layout)
    piece = x.new_empty((min(most, tiles) * layout.columns, inputs))
    out = x.new_empty((len(x), outputs))
    for tile in range(0, tiles, most):
        first = tile * layout.columns
        last = min(outputs, first + len(piece))
        expand(matrix, piece, tile, layout)
        torch.mm(x, piece[: last - first].T, out=out[:, first:last])
    return out


def expand(matrix: StoredMatrix, piece: Tensor, first: int, layout: Layout) -> None:
    """Write the weights of the tiles from ``first`` on to a piece [rows, K], as many as it takes.

    Of the last tile of a matrix, rows behind the matrix's are left as they are.
    """
    tiles = min(len(piece), layout.outputs - first * layout.columns)
    grid = (steps_of(layout), -(-tiles // layout.columns))
    decode = DECODERS[matrix.decoder].function
    expand_kernel[grid](piece, matrix.tensors, first, decode, layout, **options(1))


def options(rows: int) -> dict[str, Any]:
    """How a kernel for so many rows of activations is compiled."""
    return {
        "num_warps": 8 if rows > 2 * LEAST_ROWS else 4,
        "num_stages": 2,
        **FUSING,
    }


def has_units(x: Tensor) -> bool:
    """Whether triton uses matrix units for numbers like these: 16 bits, from Ampere on."""
    if x.dtype.itemsize != 2:
        return False
    return x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= (8, 0)


def tiles_of(layout: Layout) -> int:
    """How many tiles the outputs are: of blocks that share bytes, all."""
    if layout.shared == 1:
        return -(-layout.outputs // layout.columns)
    return -(-layout.outputs // layout.block) * (layout.block // layout.columns)


def steps_of(layout: Layout) -> int:
    """How many steps the inputs are."""
    return -(-layout.inputs // (layout.depth * layout.parts))


@triton.jit
def sums(
    x: tl.tensor,
    there: tl.tensor,
    matrix: tl.tensor,
    tile: tl.tensor,
    steps: tl.tensor,
    decode: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Rows of activations times a tile's outputs → [rows, columns] float32.

    ``steps`` are the first and the last + 1 to be summed. ``x`` are pointers to the rows [rows], of
    which only those that are ``there`` are read.
    """
    rows: tl.constexpr = layout.rows
    columns: tl.constexpr = layout.columns
    depth: tl.constexpr = layout.depth
    parts: tl.constexpr = layout.parts
    whole: tl.constexpr = depth * parts
    if rows == 1:
        total = tl.zeros((columns, depth), tl.float32)
    else:
        total = tl.zeros((rows, columns), tl.float32)
    for step in range(steps[0], steps[1]):
        for part in tl.static_range(parts):
            weights = decode(matrix, tile, step, part, layout)
            place = inputs_of(step, part, layout)
            inside = place < layout.inputs
            if layout.inputs % whole:
                weights = tl.where(inside[None, :], weights, 0.0)
            if layout.order:
                place = tl.load(matrix[layout.order] + place, mask=inside, other=0)
            mask = there[:, None] & inside[None, :] if layout.inputs % whole else there[:, None]
            a = tl.load(x[:, None] + place[None, :], mask=mask, other=0.0)
            if rows == 1:
                total += weights * a.to(tl.float32)
            else:
                b = tl.trans(weights.to(a.dtype))
                total = tl.dot(a, b, total, input_precision="ieee")
    if rows == 1:
        return tl.sum(total, 1)[None, :]
    else:
        return total


@triton.jit
def product_kernel(
    x: tl.tensor,
    out: tl.tensor,
    matrix: tl.tensor,
    tokens: tl.tensor,
    share: tl.tensor,
    decode: tl.constexpr,
    layout: tl.constexpr,
) -> None:
    """x [T, K] times a tile of the matrix → out [S, T, N], each split over ``share`` steps."""
    split = tl.program_id(0)
    tile = tl.program_id(1)
    row = tl.arange(0, layout.rows)
    steps: tl.constexpr = tl.cdiv(layout.inputs, layout.depth * layout.parts)
    first = split * share
    last = tl.minimum(first + share, steps)
    total = sums(x + row * layout.inputs, row < tokens, matrix, tile, (first, last), decode, layout)
    column = outputs_of(tile, layout)
    tl.store(
        out + (split * tokens + row)[:, None] * layout.outputs + column[None, :],
        total.to(out.dtype.element_ty),
        mask=(row < tokens)[:, None] & (column < layout.outputs)[None, :],
    )


@triton.jit
def expand_kernel(
    out: tl.tensor,
    matrix: tl.tensor,
    first: tl.tensor,
    decode: tl.constexpr,
    layout: tl.constexpr,
) -> None:
    """One tile and step of the matrix, from tile ``first`` on → out [rows, K]."""
    parts: tl.constexpr = layout.parts
    step = tl.program_id(0)
    tile = first + tl.program_id(1)
    column = outputs_of(tile, layout)
    row = (column - first * layout.columns).to(tl.int64)
    for part in tl.static_range(parts):
        weights = decode(matrix, tile, step, part, layout)
        place = inputs_of(step, part, layout)
        inside = place < layout.inputs
        if layout.order:
            place = tl.load(matrix[layout.order] + place, mask=inside, other=0)
        tl.store(
            out + row[:, None] * layout.inputs + place[None, :],
            weights.to(out.dtype.element_ty),
            mask=(column < layout.outputs)[:, None] & inside[None, :],
        )
