"""The decoder of integers with scales for groups of inputs (`quant.groups.GroupWeight`)."""

from __future__ import annotations

import triton
import triton.language as tl

from helexa.engine.kernels.tiles_triton import inputs_of, number, outputs_of


@triton.jit
def codes(matrix: tl.tensor, tile: tl.tensor, place: tl.tensor, layout: tl.constexpr) -> tl.tensor:
    """The integers [columns, depth] of a tile at the inputs ``place`` [depth], uint8."""
    columns: tl.constexpr = layout.columns
    depth: tl.constexpr = layout.depth
    inside: tl.constexpr = layout.block // columns
    wide: tl.constexpr = columns // layout.shared
    first = tile // inside * (inside * wide) + tile % inside * wide
    row = (first + tl.arange(0, wide)).to(tl.int64)
    byte = tl.load(matrix[0] + row[:, None] * layout.inputs + place[None, :])
    if layout.shared == 2:
        both = tl.permute(tl.join(byte & 15, byte >> 4), (2, 0, 1))
        return tl.reshape(both, (columns, depth))
    else:
        return byte


@triton.jit
def groups(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """A tile as `kernels.blocks_triton` tells.

    ``matrix`` is (codes [B, R, K] or [B, R/2, K] uint8, scales [G, B·R], zeros [G, B·R] uint8, the
    group of each input [K], …), the last two where there are any. sizes: (G, shift, 1 with zeros,
    the place of the groups in ``matrix`` or 0, how many inputs of a tile in a row are in one group
    for certain: a power of two).
    """
    columns: tl.constexpr = layout.columns
    depth: tl.constexpr = layout.depth
    shift: tl.constexpr = layout.sizes[1]
    alike: tl.constexpr = layout.sizes[4]
    runs: tl.constexpr = depth // alike
    across: tl.constexpr = tl.cdiv(layout.outputs, layout.block) * layout.block
    place = tl.minimum(inputs_of(step, part, layout), layout.inputs - 1)
    code = codes(matrix, tile, place, layout)
    first = tl.minimum(step * layout.depth + alike * tl.arange(0, runs), layout.inputs - 1)
    if layout.sizes[3]:
        group = tl.load(matrix[layout.sizes[3]] + first)
    else:
        group = first // (layout.inputs // layout.sizes[0])
    at = outputs_of(tile, layout)[:, None] + group[None, :] * across
    scale = tl.load(matrix[1] + at).to(tl.float32)[:, :, None]
    if layout.sizes[2]:
        low = number(tl.load(matrix[2] + at), -shift)[:, :, None]
        value = (number(tl.reshape(code, (columns, runs, alike)), 0) - low) * scale
    else:
        value = number(tl.reshape(code, (columns, runs, alike)), shift) * scale
    return tl.reshape(value, (columns, depth))
