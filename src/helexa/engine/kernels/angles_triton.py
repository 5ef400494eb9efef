"""The angles of a step on a GPU as one kernel; `layers.rope.Rotary` is the definition.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from helexa.engine.kernels.launching import FUSING

if TYPE_CHECKING:
    from torch import Tensor


def angles_on_device(
    positions: Tensor, frequencies: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """positions [T], frequencies [d / 2] → cos, sin [T, 1, d] float32, sin's first half negated.

    Both are multiplied by ``factor``.
    """
    half = len(frequencies)
    both = frequencies.new_empty((2, len(positions), 1, 2 * half))
    shape = half, triton.next_power_of_2(half)
    angles_kernel[(len(positions),)](
        positions, frequencies, both, factor, shape, num_warps=1, **FUSING
    )
    return both[0], both[1]


@triton.jit
def angles_kernel(
    positions: tl.tensor,
    frequencies: tl.tensor,
    out: tl.tensor,
    factor: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """One token's: → out [2, T, d]; ``shape`` is (d / 2, power of 2 ≥ that)."""
    half: tl.constexpr = shape[0]
    token = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, shape[1])
    inside = lane < half
    angle = tl.load(positions + token).to(tl.float32)
    angle = angle * tl.load(frequencies + lane, mask=inside, other=0.0)
    cos = tl.cos(angle) * factor
    sin = tl.sin(angle) * factor
    place = out + token * (2 * half) + lane
    tl.store(place, cos, mask=inside)
    tl.store(place + half, cos, mask=inside)
    place += tl.num_programs(0).to(tl.int64) * (2 * half)
    tl.store(place, -sin, mask=inside)
    tl.store(place + half, sin, mask=inside)
