"""The decoder of matrices in plain number formats, for layers that mix them with others."""

from __future__ import annotations

import triton
import triton.language as tl

from helexa.engine.kernels.tiles_triton import inputs_of, stored_rows


@triton.jit
def plain(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """A tile as `kernels.blocks_triton` tells; ``matrix`` is (numbers [N, K],)."""
    place = inputs_of(step, part, layout)
    at = matrix[0] + stored_rows(tile, layout)[:, None] * layout.inputs + place[None, :]
    if layout.inputs % layout.depth:
        return tl.load(at, mask=(place < layout.inputs)[None, :], other=0.0).to(tl.float32)
    else:
        return tl.load(at).to(tl.float32)
