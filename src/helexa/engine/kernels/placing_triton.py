"""`place_definition` on a GPU as one kernel.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.kernels.placing import Projected


class Heads(NamedTuple):
    """What the kernel is compiled for.

    H query heads, each followed by a gate if ``stride`` is 2 and not 1, G key heads and G value
    heads of ``dim`` numbers, of which ``turned`` are rotated; ``block`` is the power of 2 ≥ dim.
    """

    queries: int
    groups: int
    stride: int
    dim: int
    turned: int
    block: int


def place_on_device(
    made: Projected,
    norm: tuple[Tensor, Tensor] | None,
    angles: tuple[Tensor, Tensor],
    kv: Tensor,
    slots: Tensor,
) -> Tensor:
    """`place_definition`: one program for each head of each token."""
    dim, turned = made.dim, angles[0].shape[-1]
    block = triton.next_power_of_2(dim)
    heads = Heads(made.heads, made.groups, 2 if made.gated else 1, dim, turned, block)
    out = made.y.new_empty((len(made.y), made.heads, dim))
    grid = len(made.y), made.heads + 2 * made.groups
    memory = kv, kv.stride(0), kv.stride(1)
    gain, floor = norm if norm is not None else (None, None)
    norms = gain, floor
    place_kernel[grid](made.y, out, memory, slots, angles, norms, heads, num_warps=1, **FUSING)
    return out


@triton.jit
def place_kernel(
    y: tl.tensor,
    out: tl.tensor,
    memory: tl.tensor,
    slots: tl.tensor,
    angles: tl.tensor,
    norm: tl.tensor,
    heads: tl.constexpr,
) -> None:
    """One head of one token; ``memory`` is (cache, numbers from keys to values, from G to G)."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    keys: tl.constexpr = heads.queries
    values: tl.constexpr = heads.queries + heads.groups
    width: tl.constexpr = heads.queries * heads.stride + 2 * heads.groups
    lane = tl.arange(0, heads.block)
    inside = lane < heads.dim
    column = head
    if heads.stride == 2:  # each query is followed by its gate
        column = head + tl.minimum(head, keys)
    row = y + (token * width + column) * heads.dim
    raw = tl.load(row + lane, mask=inside, other=0.0)
    if head < values:
        raw = turn(row, raw, token, head, angles, norm, heads)
    if head < keys:
        place = (token * keys + head) * heads.dim + lane
        tl.store(out + place, raw.to(out.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(slots + token)
        is_value = (head >= values).to(tl.int64)
        group = head - keys - is_value * heads.groups
        start = is_value * memory[1] + group * memory[2] + slot * heads.dim
        kept = raw.to(memory[0].dtype.element_ty)
        size = tl.where(slot >= 0, heads.dim, 0)
        tl.store(memory[0] + start + lane, kept, mask=lane < size)


@triton.jit
def turn(
    row: tl.tensor,
    raw: tl.tensor,
    token: tl.tensor,
    head: tl.tensor,
    angles: tl.tensor,
    norm: tl.tensor,
    heads: tl.constexpr,
) -> tl.tensor:
    """Norm and rotate a query or a key at ``row``, whose numbers are ``raw``, in its own format."""
    half: tl.constexpr = heads.turned // 2
    lane = tl.arange(0, heads.block)
    inside = lane < heads.dim
    rotated = lane < heads.turned
    partner = tl.where(lane < half, lane + half, tl.where(rotated, lane - half, lane))
    other = tl.load(row + partner, mask=inside, other=0.0)
    one = raw.to(tl.float32)
    two = other.to(tl.float32)
    if norm[0] is not None:
        least = tl.load(norm[1])
        length = tl.sqrt(tl.sum(one * one, 0) + least * least)
        gain = norm[0] + head * heads.dim
        one = one / length * tl.load(gain + lane, mask=inside, other=0.0)
        two = two / length * tl.load(gain + partner, mask=inside, other=0.0)
        one = one.to(raw.dtype).to(tl.float32)  # rounded where the definition rounds
        two = two.to(raw.dtype).to(tl.float32)
    cos = tl.load(angles[0] + token * heads.turned + lane, mask=rotated, other=1.0)
    sin = tl.load(angles[1] + token * heads.turned + lane, mask=rotated, other=0.0)
    return (one * cos + two * sin).to(raw.dtype)
