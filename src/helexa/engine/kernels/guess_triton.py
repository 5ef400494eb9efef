"""A draw from each row's best tokens, on a GPU in one launch: see `ahead.guessing`.

Needs triton, and with TRITON_INTERPRET=1 set before the first import runs on CPU tensors as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import triton
import triton.language as tl

from helexa.engine.kernels.choosing_triton import fallen_on
from helexa.engine.kernels.launching import FUSING
from helexa.engine.kernels.stored_matrix import device_of
from helexa.engine.upload import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.ahead.guessing import Guess

LOWER = tl.constexpr(0x7FFFFFFF)
"""All bits of an int32 but its sign, and the largest id."""
NUMBERS = tl.constexpr(7)
"""How many a `Guess` has."""

ONE_WARP: Final = 128
"""So many tokens are best sorted by threads that need not wait for others."""


def guess_by_kernel(values: Tensor, ids: Tensor, masses: Tensor, asked: Sequence[Guess]) -> Tensor:
    """As the definition, of tokens [A, C] of which one program holds all of a row's."""
    out = torch.empty(len(asked), dtype=torch.int64, device=values.device)
    table = upload(asked, values.device, torch.float64)
    masses = masses if len(masses) else table  # which nobody reads then
    count = values.shape[1]
    size = triton.next_power_of_2(count)
    warps = 1 if size <= ONE_WARP else 4
    with device_of(values):
        guess_kernel[(len(asked),)](
            values, ids, masses, table, out, count, size, num_warps=warps, **FUSING
        )
    return out


@triton.jit
def key_of(value: tl.tensor, at: tl.tensor) -> tl.tensor:
    """A number that is the higher the better a token is: by logit, among equal ones by id."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)  # -0.0 is 0.0
    rising = bits ^ ((bits >> 31) & LOWER)
    return (rising.to(tl.int64) << 32) + (LOWER - at)


@triton.jit(do_not_specialize=["count"])
def guess_kernel(
    values: tl.tensor,
    ids: tl.tensor,
    masses: tl.tensor,
    asked: tl.tensor,
    out: tl.tensor,
    count: int,
    size: tl.constexpr,
) -> None:
    """One draw from ``count`` = C tokens; ``size`` is a power of 2 ≥ C: few kernels for any C."""
    draw = tl.program_id(0).to(tl.int64)
    asked += NUMBERS * draw
    row = tl.load(asked).to(tl.int64)
    temperature = tl.load(asked + 1)
    top_k = tl.load(asked + 2).to(tl.int32)
    top_p = tl.load(asked + 3)
    least = tl.load(asked + 4)
    number = tl.load(asked + 5)
    place = tl.load(asked + 6).to(tl.int64)
    whole = tl.load(masses + tl.maximum(place, 0))
    lane = tl.arange(0, size)
    inside = lane < count
    value = tl.load(values + row * count + lane, mask=inside, other=float("-inf"))
    value = tl.where(value == value, value, float("-inf"))
    at = tl.load(ids + row * count + lane, mask=inside, other=LOWER)
    peak = tl.max(value, 0).to(tl.float64)
    sound = tl.abs(peak) < float("inf")
    value = tl.where(sound, value, float("-inf"))  # then there is no choice
    peak = tl.where(sound, peak, 0.0)

    key = tl.sort(key_of(value, at), descending=True)
    rising = (key >> 32).to(tl.int32)
    ranked = (rising ^ ((rising >> 31) & LOWER)).to(tl.float32, bitcast=True)
    weight = tl.exp((ranked.to(tl.float64) - peak) / temperature)
    weight = tl.where(lane < top_k, weight, 0.0)
    mass = tl.cumsum(weight, 0)
    target = top_p * tl.where(place < 0, tl.max(mass, 0), whole)
    last = tl.sum((mass < target).to(tl.int32), 0)
    last = tl.where(top_p < 1.0, last, size)
    kept = (weight > 0.0) & (weight >= least) & (lane <= last)
    worst = tl.min(tl.where(kept, key, 0x7FFFFFFFFFFFFFFF), 0)

    bits = (value + 0.0).to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    by_id = tl.sort((at << 32) | bits)
    at = by_id >> 32
    value = by_id.to(tl.int32).to(tl.float32, bitcast=True)
    weight = tl.exp((value.to(tl.float64) - peak) / temperature)
    weight = tl.where(key_of(value, at) >= worst, weight, 0.0)
    running = tl.cumsum(weight, 0)
    place = fallen_on(running, weight, lane, number * tl.max(running, 0))
    tl.store(out + draw, tl.sum(tl.where(lane == place, at, 0), 0))
