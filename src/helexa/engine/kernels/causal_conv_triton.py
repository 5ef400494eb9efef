"""`causal_conv` of many sequences at once on a GPU, their states changed where they lie.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
Shapes: T rows of a step, P sequences in it, C channels, a convolution over K inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = tl.constexpr(128)
"""Channels of a tile."""
ROWS = 16
"""Rows of a tile, where sequences have more than one new token."""


def causal_conv_on_device(
    x: Tensor,
    weight: Tensor,
    state: Tensor,
    starts: Tensor,
    slots: Tensor,
    lengths: Tensor | None = None,
    longest: int = 1,
) -> Tensor:
    """`causal_conv` for the sequences whose rows of x begin at ``starts`` and whose states are
    ``slots``, both [P] integers on the device, none of them twice.

    x [T, C], its rows perhaps apart, weight [K, C] float32, state [slots, K − 1, C], which moves
    on; a negative slot stands for no sequence, which gets zeros. Without ``lengths`` each sequence
    has one new token and the result is [P, C]; with lengths [P], of which none is above
    ``longest``, it is [T, C], defined in these rows only.
    """
    taps, channels = weight.shape
    assert x.stride(1) == 1 and state.is_contiguous()
    out = x.new_empty((len(starts) if lengths is None else len(x), channels))
    rows = 1 if lengths is None else ROWS
    grid = triton.cdiv(longest, rows), len(starts), triton.cdiv(channels, CHANNELS.value)
    shape = taps, triton.next_power_of_2(max(taps - 1, 1)), channels, rows, x.stride(0)
    causal_conv_kernel[grid](x, weight, state, (starts, slots, lengths), out, shape, **FUSING)
    return out


@triton.jit
def causal_conv_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    state: tl.tensor,
    spans: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Some rows and channels of one sequence; the program of its first rows makes the new state.

    ``spans`` is (starts, slots, lengths), ``shape`` (K, the power of two from K − 1 on, C, rows of
    a tile, distance of x's rows).
    """
    taps: tl.constexpr = shape[0]
    channels: tl.constexpr = shape[2]
    rows: tl.constexpr = shape[3]
    stride: tl.constexpr = shape[4]
    span = tl.program_id(1).to(tl.int64)
    start = tl.load(spans[0] + span).to(tl.int64)
    if spans[2] is None:
        length = 1
        first = span
    else:
        length = tl.load(spans[2] + span).to(tl.int32)
        first = start
    if tl.program_id(0) * rows >= length:
        return
    slot = tl.load(spans[1] + span).to(tl.int64)
    before = state + slot * ((taps - 1) * channels)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    there = (row < length)[:, None] & inside[None, :]
    place = out + (first + row.to(tl.int64))[:, None] * channels + channel[None, :]
    total = tl.zeros((rows, CHANNELS), tl.float32)
    if slot < 0:
        tl.store(place, total.to(out.dtype.element_ty), mask=there)
        return
    for j in tl.static_range(taps):
        at = row - (taps - 1) + j
        u = _inputs(x + start * stride, before, at, channel, there, (taps, channels, stride))
        total += u * tl.load(weight + j * channels + channel, mask=inside, other=0.0)[None, :]
    tl.store(place, (total * tl.sigmoid(total)).to(out.dtype.element_ty), mask=there)
    if tl.program_id(0) == 0:
        last = tl.arange(0, shape[1])
        kept = (last < taps - 1)[:, None] & inside[None, :]
        old = length - (taps - 1) + last
        held = _inputs(x + start * stride, before, old, channel, kept, (taps, channels, stride))
        tl.debug_barrier()  # nobody overwrites what another thread has yet to read
        target = before + last[:, None] * channels + channel[None, :]
        tl.store(target, held.to(state.dtype.element_ty), mask=kept)


@triton.jit
def _inputs(
    x: tl.tensor,
    before: tl.tensor,
    at: tl.tensor,
    channel: tl.tensor,
    wanted: tl.tensor,
    shape: tl.constexpr,
) -> tl.tensor:
    """Inputs ``at`` [rows] of a sequence, float32: of its state where that is below 0, else of x.

    ``shape`` is (K, C, distance of x's rows).
    """
    old = (at < 0)[:, None]
    place = x + at[:, None].to(tl.int64) * shape[2] + channel[None, :]
    new = tl.load(place, mask=wanted & ~old, other=0.0).to(tl.float32)
    place = before + (at[:, None] + (shape[0] - 1)) * shape[1] + channel[None, :]
    # As if the state had x's format: it is put in front of x before anything is multiplied.
    held = tl.load(place, mask=wanted & old, other=0.0).to(x.dtype.element_ty).to(tl.float32)
    return tl.where(old, held, new)
