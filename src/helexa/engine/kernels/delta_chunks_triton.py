"""`chunked_delta_rule` on a GPU, for the prompts of a step at once, states changed in place.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
Shapes: T rows of a step, P sequences in it, chunks of 64 tokens, Hk key heads of dim Dk, Hv value
heads of dim Dv, C = 2 · Hk · Dk + Hv · Dv. The mathematics is that of `kernels.delta_rule`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.delta_rule import CHUNK
from helexa.engine.kernels.delta_rule_triton import L2_EPS, VALUES, key_head_of
from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

SIZE = tl.constexpr(CHUNK)
HEADS = tl.constexpr(4)
"""Heads of a tile of `unit_kernel`."""
DEPTH = tl.constexpr(32)
"""Dims of keys and of values that `solve_kernel` takes at a time."""
STEP = tl.constexpr(16)
"""What `carry_kernel` sums over at a time: the fewest that a product takes."""


WARPS = 8
"""Of `solve_kernel` and `carry_kernel`: with fewer, the tiles fill the registers."""


class Spans(NamedTuple):
    """Sequences in the rows of a step: ``starts``, ``slots`` and ``lengths`` [P], integers on the
    device; none has more than ``longest`` rows.
    """

    starts: Tensor
    slots: Tensor
    lengths: Tensor
    longest: int


def chunked_on_device(
    qkv: Tensor,
    gates: tuple[Tensor, Tensor],
    spans: Spans,
    state: Tensor,
    out: Tensor,
    *,
    tiled: bool,
) -> None:
    """`chunked_delta_rule` on what comes out of the convolution: changes state and out.

    qkv [T, C] as q | k | v, not normalised; gates g and β [T, Hv] float32; state [slots, Hv, Dk,
    Dv] float32; out [T, Hv, Dv], of which only the rows of ``spans`` are written.
    """
    tokens, (_, value_heads, key_dim, value_dim) = len(qkv), state.shape
    key_heads = (qkv.shape[1] - value_heads * value_dim) // (2 * key_dim)
    g, beta = (gate.contiguous() for gate in gates)
    assert qkv.is_contiguous() and state.is_contiguous() and out.is_contiguous()
    unit = g.new_empty(tokens, 2, key_heads, key_dim)
    fresh = g.new_empty(tokens, value_heads, value_dim)
    known = g.new_empty(tokens, value_heads, key_dim)
    inside = g.new_empty(tokens, value_heads, CHUNK)
    grid = spans.longest, triton.cdiv(2 * key_heads, HEADS.value), len(spans.starts)
    unit_kernel[grid](
        qkv, unit, spans[:3], (qkv.shape[1], key_heads, key_dim, key_dim**-0.5), **FUSING
    )
    shape = key_heads, value_heads, key_dim, value_dim, tiled
    solved = fresh, known, inside, torch.empty_like(fresh)
    among = value_heads, len(spans.starts)
    chunks, columns = triton.cdiv(spans.longest, CHUNK), triton.cdiv(value_dim, VALUES.value)
    options = {"num_warps": WARPS, "num_stages": 1, **FUSING}
    solve_kernel[chunks, *among](unit, qkv, (g, beta), spans[:3], solved, shape, **options)
    carry_kernel[columns, *among](unit, g, spans[:3], solved, state, out, shape, **options)


@triton.jit
def unit_kernel(qkv: tl.tensor, unit: tl.tensor, spans: tl.tensor, shape: tl.constexpr) -> None:
    """q and k of some heads of a token, normalised, q scaled: qkv [T, C] → unit [T, 2, Hk, Dk].

    ``shape`` is (C, Hk, Dk, Dk^-½).
    """
    heads: tl.constexpr = shape[1]
    size: tl.constexpr = shape[2]
    start, length = _rows(spans, tl.program_id(2))
    if tl.program_id(0) >= length:
        return
    token = start + tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)  # queries' first, then keys'
    d = tl.arange(0, triton.next_power_of_2(size))
    there = (head < 2 * heads)[:, None] & (d < size)[None, :]
    place = head[:, None] * size + d[None, :]
    x = tl.load(qkv + token * shape[0] + place, mask=there, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(x * x, 1) + L2_EPS)
    scaled = x * tl.where(head < heads, shape[3] / length, 1.0 / length)[:, None]
    tl.store(unit + token * (2 * heads * size) + place, scaled, mask=there)


@triton.jit
def solve_kernel(
    unit: tl.tensor,
    qkv: tl.tensor,
    gates: tl.tensor,
    spans: tl.tensor,
    solved: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """What a chunk of one value head does that does not depend on the state before it.

    ``solved`` are U = A⁻¹ βv [T, Hv, Dv], W = A⁻¹ (βk · e^γ) [T, Hv, Dk] and q kᵀ ∘ Γ [T, Hv, 64];
    ``shape`` is (Hk, Hv, Dk, Dv, tiled).
    """
    value_heads: tl.constexpr = shape[1]
    key_dim: tl.constexpr = shape[2]
    value_dim: tl.constexpr = shape[3]
    start, length = _rows(spans, tl.program_id(2))
    i = tl.arange(0, SIZE)
    if tl.program_id(0) * SIZE >= length:
        return
    head = tl.program_id(1)
    row = tl.program_id(0) * SIZE + i
    there, row = row < length, start + row
    total = tl.cumsum(tl.load(gates[0] + row * value_heads + head, mask=there, other=0.0), 0)
    beta = tl.load(gates[1] + row * value_heads + head, mask=there, other=0.0)
    between = tl.where(i[:, None] >= i[None, :], total[:, None] - total[None, :], float("-inf"))
    decay = tl.exp(between)  # masked first: no e^large
    key = unit + row * (2 * shape[0] * key_dim)
    key += key_head_of(head, shape[0], value_heads, shape[4]) * key_dim
    keys = tl.zeros((SIZE, SIZE), tl.float32)
    asked = tl.zeros((SIZE, SIZE), tl.float32)
    for depth in range(0, key_dim, DEPTH):
        q = _tile(key, depth, there, key_dim)
        k = _tile(key + shape[0] * key_dim, depth, there, key_dim)
        keys = tl.dot(k, tl.trans(k), keys, input_precision="ieee")
        asked = tl.dot(q, tl.trans(k), asked, input_precision="ieee")
    at = row * value_heads + head
    place = solved[2] + at[:, None] * SIZE + i[None, :]
    tl.store(place, asked * decay, mask=there[:, None])
    inverse = _inverse(tl.where(i[:, None] > i[None, :], keys * decay * beta[:, None], 0.0), i)
    value = qkv + row * (2 * shape[0] * key_dim + value_heads * value_dim)
    value += 2 * shape[0] * key_dim + head * value_dim
    for depth in range(0, value_dim, DEPTH):
        v = _tile(value, depth, there, value_dim).to(tl.float32) * beta[:, None]
        fresh = tl.dot(inverse, v, input_precision="ieee")
        _put(solved[0] + at * value_dim, depth, there, value_dim, fresh)
    for depth in range(0, key_dim, DEPTH):
        k = _tile(key + shape[0] * key_dim, depth, there, key_dim)
        known = tl.dot(inverse, k * (beta * tl.exp(total))[:, None], input_precision="ieee")
        _put(solved[1] + at * key_dim, depth, there, key_dim, known)


@triton.jit
def carry_kernel(
    unit: tl.tensor,
    g: tl.tensor,
    spans: tl.tensor,
    solved: tl.tensor,
    state: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Some columns of one value head's state through all chunks of a sequence.

    v' = U − W S, o = (q · e^γ) S + (q kᵀ ∘ Γ) v', S ← e^γ_C · S + (k · e^(γ_C − γ))ᵀ v'. The state
    stays in memory and v' takes the place of U, so that products need few registers: these columns
    are nobody else's. ``solved`` is `solve_kernel`'s, and room for e^(γ_C − γ) v'; so is ``shape``.
    """
    value_heads: tl.constexpr = shape[1]
    key_dim: tl.constexpr = shape[2]
    value_dim: tl.constexpr = shape[3]
    start, length = _rows(spans, tl.program_id(2))
    i, head = tl.arange(0, SIZE), tl.program_id(1)
    column = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    slot = tl.load(spans[1] + tl.program_id(2)).to(tl.int64)
    held = state + (slot * value_heads + head) * (key_dim * value_dim)
    key_head = key_head_of(head, shape[0], value_heads, shape[4])
    for first in range(0, length, SIZE):
        there, row = first + i < length, start + first + i
        at = row * value_heads + head
        total = tl.cumsum(tl.load(g + at, mask=there, other=0.0), 0)
        last = tl.sum(tl.where(i == SIZE - 1, total, 0.0), 0)
        query = unit + row * (2 * shape[0] * key_dim) + key_head * key_dim
        write = there[:, None] & (column < value_dim)[None, :]
        place = at[:, None] * value_dim + column[None, :]
        new = tl.load(solved[0] + place, mask=write, other=0.0)
        o = tl.zeros((SIZE, VALUES), tl.float32)
        for depth in range(0, key_dim, STEP):
            s = _columns(held, depth + tl.arange(0, STEP), key_dim, column, value_dim)
            known = _tile(solved[1] + at * key_dim, depth, there, key_dim, STEP)
            q = _tile(query, depth, there, key_dim, STEP) * tl.exp(total)[:, None]
            new = tl.dot(-known, s, new, input_precision="ieee")
            o = tl.dot(q, s, o, input_precision="ieee")
        tl.store(solved[0] + place, new, mask=write)
        tl.store(solved[3] + place, new * tl.exp(last - total)[:, None], mask=write)
        tl.debug_barrier()  # what other threads read below is there, and what they read above, read
        own = ((start + first) * value_heads + head) * value_dim
        moved, kept = solved[0] + own, solved[3] + own
        for depth in range(0, SIZE, STEP):
            near = _tile(solved[2] + at * SIZE, depth, there, SIZE, STEP)
            j = depth + tl.arange(0, STEP)
            v = _columns(moved, j, length - first, column, value_dim, value_heads)
            o = tl.dot(near, v, o, input_precision="ieee")
        tl.store(out + place, o.to(out.dtype.element_ty), mask=write)
        key = unit + (start + first) * (2 * shape[0] * key_dim) + (shape[0] + key_head) * key_dim
        _move_on(key, kept, held, tl.exp(last), length - first, column, shape)
        tl.debug_barrier()  # before the next chunk reads the state


@triton.jit
def _move_on(
    key: tl.tensor,
    kept: tl.tensor,
    held: tl.tensor,
    decay: tl.tensor,
    rows: tl.tensor,
    column: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Some columns of a state over a chunk of ``rows``: S ← decay · S + keysᵀ kept."""
    key_dim: tl.constexpr = shape[2]
    value_dim: tl.constexpr = shape[3]
    for depth in range(0, key_dim, DEPTH):
        d = depth + tl.arange(0, DEPTH)
        s = _columns(held, d, key_dim, column, value_dim) * decay
        for some in range(0, SIZE, STEP):
            j = some + tl.arange(0, STEP)
            k = _columns(key, j, rows, d, key_dim, 2 * shape[0])
            v = _columns(kept, j, rows, column, value_dim, shape[1])
            s = tl.dot(tl.trans(k), v, s, input_precision="ieee")
        mask = (d < key_dim)[:, None] & (column < value_dim)[None, :]
        tl.store(held + d[:, None] * value_dim + column[None, :], s, mask=mask)


@triton.jit
def _inverse(system: tl.tensor, i: tl.tensor) -> tl.tensor:
    """(I + system)⁻¹ of a strictly lower triangular one [64, 64].

    Block by block: the inverse of [[A, 0], [L, B]] is [[A⁻¹, 0], [−B⁻¹ L A⁻¹, B⁻¹]], for blocks of
    1, of 2, … of 32. Nothing is larger on the way than what it leads to, unlike powers of
    ``system``. Source: Du Croz and Higham, "Stability of Methods for Matrix Inversion", 1992.
    """
    done = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
    for level in range(6):
        apart, block = i >> level, i >> (level + 1)
        between = (block[:, None] == block[None, :]) & (apart[:, None] != apart[None, :])
        left = tl.dot(done, tl.where(between, system, 0.0), input_precision="ieee")
        done -= tl.dot(left, done, input_precision="ieee")
    return done


@triton.jit
def _rows(spans: tl.tensor, span: tl.tensor) -> tl.tensor:
    """The first row of a sequence, int64, and how many it has, int32."""
    start = tl.load(spans[0] + span).to(tl.int64)
    return start, tl.load(spans[2] + span).to(tl.int32)


@triton.jit
def _columns(
    rows: tl.tensor,
    row: tl.tensor,
    end: tl.tensor,
    column: tl.tensor,
    size: tl.constexpr,
    apart: tl.constexpr = 1,
) -> tl.tensor:
    """Some columns of some rows of ``size`` that are ``apart``, 0 from row ``end`` on."""
    mask = (row < end)[:, None] & (column < size)[None, :]
    place = row[:, None].to(tl.int64) * (apart * size) + column[None, :]
    return tl.load(rows + place, mask=mask, other=0.0)


@triton.jit
def _tile(
    rows: tl.tensor,
    depth: tl.tensor,
    there: tl.tensor,
    size: tl.constexpr,
    width: tl.constexpr = DEPTH,
) -> tl.tensor:
    """``width`` columns from ``depth`` on of rows of ``size``, 0 beyond them."""
    column = depth + tl.arange(0, width)
    mask = there[:, None] & (column < size)[None, :]
    return tl.load(rows[:, None] + column[None, :], mask=mask, other=0.0)


@triton.jit
def _put(
    rows: tl.tensor, depth: tl.tensor, there: tl.tensor, size: tl.constexpr, values: tl.tensor
) -> None:
    """The opposite of `_tile`."""
    column = depth + tl.arange(0, DEPTH)
    mask = there[:, None] & (column < size)[None, :]
    tl.store(rows[:, None] + column[None, :], values, mask=mask)
