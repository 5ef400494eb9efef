"""One token of many sequences by the gated delta rule, on a GPU, states changed where they lie.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
Shapes: R sequences, Hk key heads of dim Dk, Hv value heads of dim Dv, C = 2 · Hk · Dk + Hv · Dv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

VALUES = tl.constexpr(32)
"""Columns of a state that a program changes: it reads and writes 128 bytes in a row."""
L2_EPS = tl.constexpr(1e-6)


def delta_step_on_device(
    qkv: Tensor,
    gates: Tensor,
    constants: tuple[Tensor, Tensor],
    places: tuple[Tensor, Tensor],
    state: Tensor,
    out: Tensor,
    *,
    tiled: bool,
) -> None:
    """`delta_step` on what comes out of the convolution, in one launch: changes state and out.

    qkv [R, C] as q | k | v, not normalised; gates [T, 2, Hv], b above a: β = sigmoid(b) and
    g = rate · softplus(a + bias) with ``constants`` = rate and bias, [Hv] float32. ``places`` are
    the rows of each sequence in gates and out, and its slot in state, both [R] integers on the
    device; a negative slot stands for no sequence, whose row becomes 0. state [slots, Hv, Dk, Dv]
    float32, out [T, Hv, Dv]. Value head j belongs to key head j // (Hv / Hk), or j mod Hk if
    ``tiled``.
    """
    _, value_heads, key_dim, value_dim = state.shape
    key_heads = (qkv.shape[1] - value_heads * value_dim) // (2 * key_dim)
    assert qkv.is_contiguous() and gates.is_contiguous() and state.is_contiguous()
    shape = key_heads, value_heads, key_dim, value_dim, triton.next_power_of_2(key_dim)
    grid = triton.cdiv(value_dim, VALUES.value), value_heads, len(qkv)
    more = tiled, key_dim**-0.5
    delta_step_kernel[grid](qkv, gates, constants, places, state, out, (*shape, *more), **FUSING)


@triton.jit
def delta_step_kernel(
    qkv: tl.tensor,
    gates: tl.tensor,
    constants: tl.tensor,
    places: tl.tensor,
    state: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Some columns of the state of one value head of one sequence.

    ``shape`` is (Hk, Hv, Dk, Dv, the power of two from Dk on, tiled, Dk^-½).
    """
    key_heads: tl.constexpr = shape[0]
    value_heads: tl.constexpr = shape[1]
    key_dim: tl.constexpr = shape[2]
    value_dim: tl.constexpr = shape[3]
    sequence, head = tl.program_id(2).to(tl.int64), tl.program_id(1)
    row = tl.load(places[0] + sequence).to(tl.int64)
    slot = tl.load(places[1] + sequence).to(tl.int64)
    column = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    inside = column < value_dim
    place = out + (row * value_heads + head) * value_dim + column
    if slot < 0:
        tl.store(place, tl.zeros((VALUES,), out.dtype.element_ty), mask=inside)
        return
    key_head = key_head_of(head, key_heads, value_heads, shape[5])
    mine = qkv + sequence * (2 * key_heads * key_dim + value_heads * value_dim)
    d = tl.arange(0, shape[4])
    q = l2norm(tl.load(mine + key_head * key_dim + d, mask=d < key_dim, other=0.0)) * shape[6]
    mine += key_heads * key_dim
    k = l2norm(tl.load(mine + key_head * key_dim + d, mask=d < key_dim, other=0.0))
    mine += key_heads * key_dim
    v = tl.load(mine + head * value_dim + column, mask=inside, other=0.0).to(tl.float32)

    b = tl.load(gates + row * (2 * value_heads) + head).to(tl.float32)
    a = tl.load(gates + row * (2 * value_heads) + value_heads + head).to(tl.float32)
    g = tl.load(constants[0] + head) * softplus(a + tl.load(constants[1] + head))
    held = state + (slot * value_heads + head) * (key_dim * value_dim)
    there = (d < key_dim)[:, None] & inside[None, :]
    tile = held + d[:, None] * value_dim + column[None, :]
    s = tl.load(tile, mask=there, other=0.0) * tl.exp(g)
    change = (v - tl.sum(k[:, None] * s, 0)) * tl.sigmoid(b)
    s += k[:, None] * change[None, :]
    tl.store(tile, s, mask=there)
    tl.store(place, tl.sum(q[:, None] * s, 0).to(out.dtype.element_ty), mask=inside)


@triton.jit
def key_head_of(
    head: tl.tensor, key_heads: tl.constexpr, value_heads: tl.constexpr, tiled: tl.constexpr
) -> tl.tensor:
    """The key head of a value head."""
    return head % key_heads if tiled else head // (value_heads // key_heads)


@triton.jit
def l2norm(x: tl.tensor) -> tl.tensor:
    """x / √(Σx² + 1e-6) in float32, x [D]."""
    wide = x.to(tl.float32)
    return wide / tl.sqrt(tl.sum(wide * wide, 0) + L2_EPS)


@triton.jit
def softplus(x: tl.tensor) -> tl.tensor:
    """log(1 + e^x), and x itself above 20, as torch has it.

    Where 1 + e^x is rounded, its logarithm is corrected by the ratio of e^x to what was added.
    """
    grown = tl.exp(tl.minimum(x, 20.0))
    whole = 1.0 + grown
    added = tl.where(whole == 1.0, 1.0, whole - 1.0)
    small = tl.where(whole == 1.0, grown, tl.log(whole) * (grown / added))
    return tl.where(x > 20.0, x, small)
