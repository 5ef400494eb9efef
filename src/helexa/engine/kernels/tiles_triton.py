"""Which weights a tile has (see `kernels.stored_matrix.Layout`)."""

from __future__ import annotations

import triton
import triton.language as tl

UNIT = tl.constexpr(0x4B000000)
"""2²³ in float32: with an integer in its low bits, 2²³ more than the integer."""


@triton.jit
def outputs_of(tile: tl.tensor, layout: tl.constexpr) -> tl.tensor:
    """The outputs [columns] of a tile."""
    i = tl.arange(0, layout.columns)
    if layout.shared == 1:
        return tile * layout.columns + i
    else:
        inside: tl.constexpr = layout.block // layout.columns
        wide: tl.constexpr = layout.columns // layout.shared
        apart: tl.constexpr = layout.block // layout.shared
        first = tile // inside * layout.block + tile % inside * wide
        return first + i // wide * apart + i % wide


@triton.jit
def stored_rows(tile: tl.tensor, layout: tl.constexpr) -> tl.tensor:
    """`outputs_of` a tile as rows to read: behind the last one, that again."""
    return tl.minimum(outputs_of(tile, layout), layout.outputs - 1).to(tl.int64)


@triton.jit
def inputs_of(step: tl.tensor, part: tl.constexpr, layout: tl.constexpr) -> tl.tensor:
    """The inputs [depth] of a part of a step."""
    i = tl.arange(0, layout.depth)
    first = step * (layout.depth * layout.parts)
    if layout.parts == 1:
        return first + i
    else:
        stride: tl.constexpr = layout.parts * layout.run
        return first + i // layout.run * stride + part * layout.run + i % layout.run


@triton.jit
def number(q: tl.tensor, zero: tl.constexpr) -> tl.tensor:
    """Integers below 2²³ minus ``zero`` in float32, without GPUs' slow conversion."""
    return (q.to(tl.int32) | UNIT).to(tl.float32, bitcast=True) - (8388608.0 + zero)
