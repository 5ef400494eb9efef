"""The norm behind the delta rule on a GPU: RMSNorm(x) · silu(z) in one go.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor

HEADS = tl.constexpr(8)
"""Heads of a tile."""


def gated_norm_on_device(x: Tensor, z: Tensor, gain: Tensor, floor: Tensor) -> Tensor:
    """`GatedRMSNorm`: x [T, H, D] contiguous, z [T, H, D], its tokens perhaps apart → like x.

    gain [D] and floor [] are those of `norm_constants`.
    """
    tokens, heads, size = x.shape
    assert x.is_contiguous() and z.stride()[1:] == (size, 1)
    out = torch.empty_like(x)
    shape = heads, size, triton.next_power_of_2(size), z.stride(0)
    grid = tokens, triton.cdiv(heads, HEADS.value)
    gated_norm_kernel[grid](x, z, gain, floor, out, shape, **FUSING)
    return out


@triton.jit
def gated_norm_kernel(
    x: tl.tensor,
    z: tl.tensor,
    gain: tl.tensor,
    floor: tl.tensor,
    out: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Some heads of a token. ``shape`` is (H, D, power of two from D, distance of z's tokens)."""
    heads: tl.constexpr = shape[0]
    size: tl.constexpr = shape[1]
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, shape[2])
    there = (head < heads)[:, None] & (column < size)[None, :]
    place = head[:, None] * size + column[None, :]
    wide = tl.load(x + token * (heads * size) + place, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(z + token * shape[3] + place, mask=there, other=0.0).to(tl.float32)
    least = tl.load(floor)
    length = tl.sqrt(tl.sum(wide * wide, 1) + least * least)
    scaled = wide / length[:, None] * tl.load(gain + column, mask=column < size, other=0.0)[None, :]
    scaled = scaled.to(out.dtype.element_ty).to(tl.float32)
    passed = (scaled * (gate * tl.sigmoid(gate))).to(out.dtype.element_ty)
    tl.store(out + token * (heads * size) + place, passed, mask=there)
