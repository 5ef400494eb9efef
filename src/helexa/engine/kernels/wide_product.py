"""Products of many float32 rows on a CPU, by the faster of the two libraries that torch has.

torch multiplies float32 matrices by MKL, which leaves AVX-512 unused on CPUs that are not Intel's;
oneDNN's kernels are made for the CPU they find. Measured with 128 rows and one thread of an AMD
EPYC: 92 against 205 GFLOP/s. Both sum in float32.

oneDNN writes a program for every size of matrices that it meets, in half a millisecond and half a
megabyte, and keeps a thousand of them. So there are `few_kinds` of sizes here: others are padded.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

LEAST_ROWS = 16
"""Fewer rows than this cost what reading the matrix costs, or gain too little."""
FINEST = 16
"""Steps between sizes, where they are not an eighth of the power of two below."""


def wide_product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ Wᵀ: x [T, K] and weight [N, K], of any strides → [T, N]. What `F.linear` computes."""
    fits = len(x) >= LEAST_ROWS and x.dtype == weight.dtype == torch.float32
    if fits and x.device.type == "cpu" and has_onednn():
        return onednn_product(x, weight)
    return F.linear(x, weight)


def onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    """The same by oneDNN. Who has many tiles to multiply with pads x before: it is copied here."""
    rows = padded(x)
    product = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return cast("Tensor", product)[: len(x)]


def few_kinds(size: int) -> int:
    """A size, at least this one, of which there are few: 28 up to 512, then 8 as it doubles."""
    if size <= FINEST:
        return 1 << max(0, size - 1).bit_length()
    step = max(FINEST, (1 << (size - 1).bit_length()) // 16)
    return -(-size // step) * step


def padded(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x [T, K] in ``dtype``, None: its own, with rows of zeros up to `few_kinds` of T."""
    dtype, count = dtype or x.dtype, few_kinds(len(x))
    if count == len(x):
        return x.to(dtype)
    out = x.new_empty(count, x.shape[1], dtype=dtype)
    out[: len(x)] = x
    out[len(x) :].zero_()
    return out


@cache
def has_onednn() -> bool:
    """Whether torch has oneDNN here, and this operator of it, which no promise covers."""
    if not torch._C._has_mkldnn:
        return False
    x = torch.arange(64.0).view(2, 32)
    try:
        found = onednn_product(x, x.flip(0))
    except (RuntimeError, AttributeError, TypeError):
        return False
    return torch.equal(found, x @ x.flip(0).T)
