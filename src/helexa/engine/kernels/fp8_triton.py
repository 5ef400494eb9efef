"""The decoder of float8 e4m3 matrices with scales; it needs no unit for float8."""

from __future__ import annotations

import triton
import triton.language as tl

from helexa.engine.kernels.tiles_triton import inputs_of, stored_rows

REBIASED = tl.constexpr(256.0)
"""As in `kernels.fp8`: 2^(15 − 7), float16's and e4m3's biases."""


@triton.jit
def fp8(
    matrix: tl.tensor,
    tile: tl.tensor,
    step: tl.tensor,
    part: tl.constexpr,
    layout: tl.constexpr,
) -> tl.tensor:
    """A tile as `kernels.blocks_triton` tells.

    ``matrix`` is (bytes [N, K] uint8, scales [⌈N/tall⌉, ⌈K/wide⌉] float32), sizes (tall, wide).
    Shifted to where float16 has exponent and mantissa, the bits mean that · 2⁻⁸.
    """
    inputs: tl.constexpr = layout.inputs
    depth: tl.constexpr = layout.depth
    wide: tl.constexpr = layout.sizes[1]
    across: tl.constexpr = (inputs + wide - 1) // wide
    row = stored_rows(tile, layout)
    place = inputs_of(step, part, layout)
    at = matrix[0] + row[:, None] * inputs + place[None, :]
    if inputs % depth:
        byte = tl.load(at, mask=(place < inputs)[None, :], other=0).to(tl.int32)
    else:
        byte = tl.load(at).to(tl.int32)
    bits = ((byte & 127) << 7) | ((byte & 128) << 8)
    value = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    scale = matrix[1] + row // layout.sizes[0] * across
    if across == 1:
        return value * (tl.load(scale) * REBIASED)[:, None]
    elif wide % depth == 0:
        return value * (tl.load(scale + step * depth // wide) * REBIASED)[:, None]
    else:
        block = tl.minimum(place // wide, across - 1)
        return value * (tl.load(scale[:, None] + block[None, :]) * REBIASED)
