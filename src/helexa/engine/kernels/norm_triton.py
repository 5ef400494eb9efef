"""`add_rms_norm` on a GPU: residual addition and norm in one kernel.

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


def add_rms_norm_on_device(x: Tensor, change: Tensor | None, gain: Tensor, floor: Tensor) -> Tensor:
    """`add_rms_norm`, with the sum left in ``x``: x and change [T, D], contiguous → [T, D].

    A change may also be splits [S, T, D] float32 that have yet to be added up, as
    `joining_triton.joined` would.
    """
    rows, size = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(size)
    shape = size, block, len(change) if change is not None and change.ndim == 3 else 0
    options = {"num_warps": warps(block), **FUSING}
    add_norm_kernel[(rows,)](x, change, out, gain, floor, shape, **options)
    return out


def warps(block: int) -> int:
    """How many warps share a row: each thread takes 8 numbers, as one read of 16 bits each does."""
    return max(1, min(16, block // 256))


@triton.jit
def add_norm_kernel(
    x: tl.tensor,
    change: tl.tensor,
    out: tl.tensor,
    gain: tl.tensor,
    floor: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """One row: x += change, out = x / √(‖x‖² + floor²) · gain.

    ``shape`` is (D, power of 2 ≥ D, splits of the change or 0).
    """
    size: tl.constexpr = shape[0]
    lane = tl.arange(0, shape[1])
    inside = lane < size
    place = tl.program_id(0).to(tl.int64) * size + lane
    value = tl.load(x + place, mask=inside, other=0.0)
    if change is not None:
        more = tl.load(change + place, mask=inside, other=0.0).to(tl.float32)
        if shape[2]:
            for _ in range(1, shape[2]):
                change += tl.num_programs(0).to(tl.int64) * size
                more += tl.load(change + place, mask=inside, other=0.0)
            more = more.to(x.dtype.element_ty).to(tl.float32)  # rounded as a product is
        value = (value.to(tl.float32) + more).to(x.dtype.element_ty)
        tl.store(x + place, value, mask=inside)
    wide = value.to(tl.float32)
    least = tl.load(floor)
    length = tl.sqrt(tl.sum(wide * wide, 0) + least * least)
    scaled = wide / length * tl.load(gain + lane, mask=inside, other=0.0)
    tl.store(out + place, scaled.to(out.dtype.element_ty), mask=inside)
