"""Each row's highest logit and who has it, on a GPU: what greedy choice and every check asks.

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

SHARE = tl.constexpr(4096)
"""Logits of a program."""
NONE = tl.constexpr(2**31 - 1)
"""Higher than any id."""


def best_of_rows(logits: Tensor) -> Tensor:
    """logits [R, V] float32 → float64 [2, R]: each row's peak, and the lowest id that has it.

    A peak is NaN if and only if the row holds one; the id is of no use then.
    """
    rows, size = logits.shape
    shares = triton.cdiv(size, SHARE.value)
    found = logits.new_empty((2, rows, shares), dtype=torch.float64)
    out = logits.new_empty((2, rows), dtype=torch.float64)
    stride = logits.stride(0)
    share_kernel[(rows, shares)](logits, found, size, stride, **FUSING)
    shape = shares, triton.next_power_of_2(shares)
    combine_kernel[(rows,)](found, out, shape, num_warps=1, **FUSING)
    return out


@triton.jit
def share_kernel(logits: tl.tensor, out: tl.tensor, size: tl.constexpr, stride: tl.tensor) -> None:
    """The best of a share of one row: logits [R, V] → out [2, R, shares]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SHARE + tl.arange(0, SHARE)
    inside = column < size
    value = tl.load(logits + row * stride + column, mask=inside, other=float("-inf"))
    place = row * tl.num_programs(1) + tl.program_id(1)
    rows = tl.num_programs(0).to(tl.int64)
    peak, at = best(value, column)
    tl.store(out + place, peak.to(tl.float64))
    tl.store(out + rows * tl.num_programs(1) + place, at.to(tl.float64))


@triton.jit
def combine_kernel(found: tl.tensor, out: tl.tensor, shape: tl.constexpr) -> None:
    """The best of one row's shares; ``shape`` is (shares, power of 2 ≥ that)."""
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0).to(tl.int64)
    share = tl.arange(0, shape[1])
    inside = share < shape[0]
    place = found + row * shape[0] + share
    value = tl.load(place, mask=inside, other=float("-inf"))
    column = tl.load(place + rows * shape[0], mask=inside, other=0.0).to(tl.int32)
    peak, at = best(value, tl.where(inside, column, NONE))
    tl.store(out + row, peak)
    tl.store(out + rows + row, at.to(tl.float64))


@triton.jit
def best(value: tl.tensor, column: tl.tensor) -> tl.tensor:
    """The highest value, NaN if there is one, and the lowest column that has it."""
    strange = tl.sum((value != value).to(tl.int32), 0)
    known = tl.where(value != value, float("-inf"), value)
    peak = tl.max(known, 0)
    at = tl.min(tl.where(known == peak, column, NONE), 0)
    return tl.where(strange > 0, float("nan"), peak), at
