"""The definitions of `kernels.state_step` on a GPU: states are read and written where they lie.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING
from helexa.engine.kernels.state_step import L2_EPS

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.hybrid_config import DeltaConfig

CHANNELS = tl.constexpr(256)
"""Channels that a program convolves."""
COLUMNS = 32
"""Columns of a state that a program changes: more programs than sequences and heads, at one row."""
EPS = tl.constexpr(L2_EPS)


class Heads(NamedTuple):
    """What the kernel of the delta rule is compiled for: see `DeltaConfig`.

    ``block`` is the power of 2 ≥ key_dim, ``columns`` are taken of a state at a time.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    tiled: bool
    block: int
    columns: int


def conv_step(x: Tensor, states: Tensor, slots: Tensor, weight: Tensor) -> Tensor:
    """`conv_step_definition`; rows of x may lie apart; each, and each state, is contiguous."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    kernel, channels = weight.shape
    grid = len(x), triton.cdiv(channels, CHANNELS.value)
    conv_kernel[grid]((x, x.stride(0)), states, slots, weight, out, (kernel, channels), **FUSING)
    return out


def delta_step_at(
    qkv: Tensor,
    gates: tuple[Tensor, Tensor],
    states: Tensor,
    slots: Tensor,
    shape: DeltaConfig,
) -> Tensor:
    """`delta_step_definition`; all tensors are contiguous."""
    block = triton.next_power_of_2(shape.key_dim)
    columns = min(COLUMNS, triton.next_power_of_2(shape.value_dim))
    heads = Heads(
        shape.key_heads,
        shape.value_heads,
        shape.key_dim,
        shape.value_dim,
        shape.tiled,
        block,
        columns,
    )
    size = len(qkv), shape.value_heads, shape.value_dim
    out = torch.empty(size, dtype=torch.float32, device=qkv.device)
    grid = len(qkv), shape.value_heads, triton.cdiv(shape.value_dim, columns)
    delta_kernel[grid](qkv, gates, states, slots, out, heads, **FUSING)
    return out


@triton.jit
def conv_kernel(
    x: tl.tensor,
    states: tl.tensor,
    slots: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Some channels of one sequence; ``x`` is (rows, numbers from row to row), ``shape`` (K, C)."""
    before: tl.constexpr = shape[0] - 1
    channels: tl.constexpr = shape[1]
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < tl.where(slot >= 0, channels, 0)
    new = tl.load(x[0] + row * x[1] + channel, mask=inside, other=0.0)
    last = tl.load(weight + before * channels + channel, mask=inside, other=0.0)
    total = new.to(tl.float32) * last
    base = states + slot * (before * channels) + channel
    for j in tl.static_range(before):
        value = tl.load(base + j * channels, mask=inside, other=0.0).to(x[0].dtype.element_ty)
        by = tl.load(weight + j * channels + channel, mask=inside, other=0.0)
        total += value.to(tl.float32) * by
        if j > 0:
            moved = value.to(states.dtype.element_ty)
            tl.store(base + (j - 1) * channels, moved, mask=inside)
    if before > 0:
        tl.store(base + (before - 1) * channels, new.to(states.dtype.element_ty), mask=inside)
    result = total * tl.sigmoid(total)
    place = out + row * channels + channel
    tl.store(place, result.to(out.dtype.element_ty), mask=channel < channels)


@triton.jit
def delta_kernel(
    qkv: tl.tensor,
    gates: tl.tensor,
    states: tl.tensor,
    slots: tl.tensor,
    out: tl.tensor,
    heads: tl.constexpr,
) -> None:
    """Some columns of the state of one value head of one sequence; ``gates`` are g and beta."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    if heads.tiled:
        key_head = head % heads.key_heads
    else:
        key_head = head // (heads.value_heads // heads.key_heads)
    key_size: tl.constexpr = heads.key_heads * heads.key_dim
    width: tl.constexpr = 2 * key_size + heads.value_heads * heads.value_dim
    slot = tl.load(slots + row)
    lane = tl.arange(0, heads.block)
    column = tl.program_id(2) * heads.columns + tl.arange(0, heads.columns)
    known = tl.where(slot >= 0, heads.value_dim, 0)
    inputs = qkv + row * width
    q = unit(inputs + key_head * heads.key_dim, lane, heads) * heads.key_dim**-0.5
    k = unit(inputs + key_size + key_head * heads.key_dim, lane, heads)
    v = tl.load(
        inputs + 2 * key_size + head * heads.value_dim + column, mask=column < known, other=0.0
    ).to(tl.float32)
    kept = tl.exp(tl.load(gates[0] + row * heads.value_heads + head))
    beta = tl.load(gates[1] + row * heads.value_heads + head)
    first = (slot * heads.value_heads + head) * (heads.key_dim * heads.value_dim)
    place = states + first + lane[:, None] * heads.value_dim + column[None, :]
    inside = (lane < heads.key_dim)[:, None] & (column < known)[None, :]
    state = tl.load(place, mask=inside, other=0.0) * kept
    change = (v - tl.sum(k[:, None] * state, 0)) * beta
    state += k[:, None] * change[None, :]
    tl.store(place, state, mask=inside)
    result = tl.sum(q[:, None] * state, 0)
    place = out + (row * heads.value_heads + head) * heads.value_dim + column
    tl.store(place, result, mask=column < heads.value_dim)


@triton.jit
def unit(place: tl.tensor, lane: tl.tensor, heads: tl.constexpr) -> tl.tensor:
    """A query or a key divided by its length, [block] float32."""
    x = tl.load(place + lane, mask=lane < heads.key_dim, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x, 0) + EPS)
