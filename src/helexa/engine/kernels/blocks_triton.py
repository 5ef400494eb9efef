"""Decoders of GGUF's block formats, whose layouts are told in `quant.blocks`.

A decoder gives a tile of weights [columns, depth] in float32: of the outputs of ``tile`` the inputs
of part ``part`` of ``step``, as `kernels.tiles_triton` numbers them. ``matrix`` is a tuple of
pointers, here of one to rows of blocks, uint8. Where a byte holds the integers of several inputs,
part 0 has the lowest bits of all, part 1 the next ones, so nothing moves between threads.

Blocks of 18, 22, 34, 110 or 210 bytes begin at any even address, so nothing wider than 16 bits is
read of them at once; those of 144 and 176 bytes are read 16 bytes at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from helexa.engine.kernels.tiles_triton import number, stored_rows


@triton.jit
def halves(block: tl.tensor) -> tl.tensor:
    """Pointers to blocks as pointers to float16."""
    return block.to(tl.pointer_type(tl.float16))


@triton.jit
def small_blocks(
    matrix: tl.tensor, tile: tl.tensor, step: tl.tensor, layout: tl.constexpr
) -> tl.tensor:
    """Pointers [columns, B] to a step's blocks of 32 numbers; behind a row's end, to its last."""
    nbytes: tl.constexpr = layout.sizes[0]
    inside: tl.constexpr = layout.inputs // 32
    count: tl.constexpr = layout.depth * layout.parts // 32
    block = tl.minimum(step * count + tl.arange(0, count), inside - 1)
    row = matrix[0] + stored_rows(tile, layout) * (inside * nbytes)
    return row[:, None] + block[None, :] * nbytes


@triton.jit
def large_blocks(
    matrix: tl.tensor, tile: tl.tensor, step: tl.tensor, layout: tl.constexpr
) -> tl.tensor:
    """Pointers [columns] to a step's block of 256 numbers."""
    nbytes: tl.constexpr = layout.sizes[0]
    inside: tl.constexpr = layout.inputs // 256
    return matrix[0] + stored_rows(tile, layout) * (inside * nbytes) + step * nbytes


@triton.jit
def tiled(value: tl.tensor, layout: tl.constexpr) -> tl.tensor:
    """[columns, groups, numbers of a group] → [columns, depth]."""
    columns: tl.constexpr = layout.columns
    depth: tl.constexpr = layout.depth
    return tl.reshape(value, (columns, depth))


@triton.jit
def legacy(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Q4_0, Q4_1, Q5_0, Q5_1: sizes (bytes of a block, bits, 1 with an offset, zero)."""
    five: tl.constexpr = layout.sizes[1] == 5
    affine: tl.constexpr = layout.sizes[2]
    head: tl.constexpr = 2 + 2 * affine
    block = small_blocks(matrix, tile, step, layout)
    j = tl.arange(0, 16)[None, None, :]
    byte = tl.load(block[:, :, None] + (head + 4 * five) + j).to(tl.int32)
    q = (byte >> (4 * part)) & 15
    if five:
        fifth = tl.load((block + (head + 2 * part)).to(tl.pointer_type(tl.int16))).to(tl.int32)
        q = q | (((fifth[:, :, None] >> j) & 1) << 4)
    scale = tl.load(halves(block)).to(tl.float32)
    value = number(q, layout.sizes[3]) * scale[:, :, None]
    if affine:
        value += tl.load(halves(block) + 1).to(tl.float32)[:, :, None]
    return tiled(value, layout)


@triton.jit
def q8_0(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Q8_0: sizes (bytes of a block,)."""
    block = small_blocks(matrix, tile, step, layout)
    byte = tl.load(block[:, :, None] + 2 + tl.arange(0, 32)[None, None, :]).to(tl.int32)
    scale = tl.load(halves(block)).to(tl.float32)
    return tiled(number(byte ^ 128, 128) * scale[:, :, None], layout)


@triton.jit
def k4_k5(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Q4_K and Q5_K: sizes (bytes of a block, bits). A step is a block.

    Its first 16 bytes are d and dmin, and three words of scales and offsets.
    """
    five: tl.constexpr = layout.sizes[1] == 5
    block = large_blocks(matrix, tile, step, layout)
    pair = tl.arange(0, 4)
    words = block.to(tl.pointer_type(tl.int32))
    shift = ((2 * pair + part) & 3)[None, :] * 8
    a = tl.load(words + 1)[:, None] >> shift
    b = tl.load(words + 2)[:, None] >> shift
    c = tl.load(words + 3)[:, None] >> shift
    early = (pair < 2)[None, :]
    scale = tl.where(early, a & 63, (c & 15) | ((a >> 2) & 48))
    offset = tl.where(early, b & 63, ((c >> 4) & 15) | ((b >> 2) & 48))
    scaled = tl.load(halves(block)).to(tl.float32)[:, None] * number(scale, 0)  # [columns, 4]
    low = tl.load(halves(block) + 1).to(tl.float32)[:, None] * number(offset, 0)
    p = pair[None, :, None]
    j = tl.arange(0, 32)[None, None, :]
    byte = tl.load(block[:, None, None] + (16 + 32 * five) + 32 * p + j).to(tl.int32)
    q = (byte >> (4 * part)) & 15
    if five:
        fifth = tl.load(block[:, None, None] + 16 + 0 * p + j).to(tl.int32)
        q = q | (((fifth >> (2 * p + part)) & 1) << 4)
    return tiled(number(q, 0) * scaled[:, :, None] - low[:, :, None], layout)


@triton.jit
def q6_k(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Q6_K: sizes (bytes of a block,). A step is a block.

    Run t < 8, bytes 16t … 16t + 15, belongs to half t // 4 and there to quarter t // 2 mod 2, or
    with its high nibbles, as part 1, to the next but one.
    """
    block = large_blocks(matrix, tile, step, layout)
    run = tl.arange(0, 8)
    t = run[None, :, None]
    i = tl.arange(0, 16)[None, None, :]
    low = tl.load(block[:, None, None] + 16 * t + i).to(tl.int32)
    high = tl.load(block[:, None, None] + 128 + 32 * (t // 4) + 16 * (t % 2) + i).to(tl.int32)
    q = ((low >> (4 * part)) & 15) | (((high >> (2 * (t // 2 % 2) + 4 * part)) & 3) << 4)
    scale = tl.load(block[:, None] + (192 + 8 * (run // 4) + 4 * part + run % 4)[None, :])
    d = tl.load(halves(block) + 104).to(tl.float32)
    scaled = number(scale.to(tl.int32) ^ 128, 128) * d[:, None]
    return tiled(number(q, 32) * scaled[:, :, None], layout)


@triton.jit
def two_bits(block: tl.tensor, part: tl.constexpr) -> tl.tensor:
    """Pair ``part`` of the bits of 64 bytes, [columns, 4, 16]: quarter ``part`` of each half."""
    run = tl.arange(0, 4)[None, :, None]
    byte = tl.load(block[:, None, None] + 16 * run + tl.arange(0, 16)[None, None, :])
    return (byte.to(tl.int32) >> (2 * part)) & 3


@triton.jit
def q2_k(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Q2_K: sizes (bytes of a block,). A step is a block, a part 32 numbers of each half."""
    block = large_blocks(matrix, tile, step, layout)
    run = tl.arange(0, 4)
    both = tl.load(block[:, None] + (8 * (run // 2) + 2 * part + run % 2)[None, :]).to(tl.int32)
    scaled = tl.load(halves(block) + 40).to(tl.float32)[:, None] * number(both & 15, 0)
    low = tl.load(halves(block) + 41).to(tl.float32)[:, None] * number(both >> 4, 0)
    q = number(two_bits(block + 16, part), 0)
    return tiled(q * scaled[:, :, None] - low[:, :, None], layout)


@triton.jit
def q3_k(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """Q3_K: sizes (bytes of a block,). A step is a block, a part 32 numbers of each half."""
    block = large_blocks(matrix, tile, step, layout)
    run = tl.arange(0, 4)
    half = run // 2
    group = (8 * half + 2 * part + run % 2)[None, :]
    low = tl.load(block[:, None] + 96 + group % 8).to(tl.int32) >> (4 * half)[None, :]
    high = tl.load(block[:, None] + 104 + group % 4).to(tl.int32) >> (2 * (group // 4))
    scale = number((low & 15) | ((high & 3) << 4), 32)
    scaled = tl.load(halves(block) + 54).to(tl.float32)[:, None] * scale
    t = run[None, :, None]
    third = tl.load(block[:, None, None] + 16 * (t % 2) + tl.arange(0, 16)[None, None, :])
    third = (third.to(tl.int32) >> (4 * (t // 2) + part)) & 1
    q = two_bits(block + 32, part) | (third << 2)
    return tiled(number(q, 4) * scaled[:, :, None], layout)
