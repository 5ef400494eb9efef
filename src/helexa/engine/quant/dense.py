"""Weights that are plain matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from helexa.engine.kernels.matvec import Scratch, expanded_product, one_row_product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FLOAT16_MAX = 65504.0
FLOAT16_SMALLEST_RMS = 2.0**-14
"""Below this root mean square, what float16 rounds away (at most 2⁻²⁵) would begin to count."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseWeight:
    """A matrix [N, K] multiplied by one operator in its own format."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        return F.linear(x.to(self.tensor.dtype), self.tensor).to(x.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class HalfWeight(DenseWeight):
    """A 16-bit matrix [N, K] on a CPU, for float32 activations.

    One row of a large matrix costs its bytes, so it is multiplied as it is; more rows cost
    arithmetic, which CPUs do best in float32, so the matrix is expanded tile by tile.
    """

    scratch: Scratch
    one_row: bool = True

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        if len(x) == 1 and self.one_row:
            return one_row_product(x, self.tensor)
        return expanded_product(x, self.tensor, self.scratch)


@dataclass(frozen=True, slots=True)
class DenseFormat:
    """Keeps weights as plain matrices of ``dtype`` on ``device``.

    ``prefer_float16`` replaces bfloat16 wherever float16 holds a matrix as well: CPUs multiply it
    faster and it rounds finer. ``kernels`` False leaves every product to one torch operator.
    """

    dtype: torch.dtype
    device: torch.device
    prefer_float16: bool = False
    kernels: bool = True
    scratch: Scratch = field(default_factory=lambda: Scratch(), compare=False)

    def make(self, parts: Sequence[Tensor]) -> DenseWeight:
        """Stack the matrices [N_i, K] into one; a single one that needs no change is shared."""
        dtype = self.dtype
        if self.prefer_float16 and all(fits_float16(part) for part in parts):
            dtype = torch.float16
        if len(parts) == 1:
            tensor = parts[0].to(device=self.device, dtype=dtype)
        else:
            tensor = stacked(parts, dtype, self.device)
        half_on_cpu = dtype.itemsize == 2 and self.device.type == "cpu"
        if half_on_cpu and self.kernels:
            one_row = dtype == torch.float16 and tensor.numel() >= ONE_ROW_MIN_ELEMENTS
            return HalfWeight(tensor, self.scratch, one_row)
        return DenseWeight(tensor)


ONE_ROW_MIN_ELEMENTS = 2**19
"""Smaller matrices lie in cache, where expanding costs less than it saves in rounding."""


def stacked(parts: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrices one below the other, each converted straight into its place."""
    rows = sum(len(part) for part in parts)
    out = torch.empty((rows, *parts[0].shape[1:]), dtype=dtype, device=device)
    start = 0
    for part in parts:
        out[start : start + len(part)].copy_(part)
        start += len(part)
    return out


def fits_float16(tensor: Tensor) -> bool:
    """Whether float16 holds a 16-bit matrix and its products with unit vectors without harm."""
    if tensor.dtype == torch.float16:
        return True
    longest_row = torch.linalg.vector_norm(tensor, 1, -1, dtype=torch.float32).max().item()
    rms = torch.linalg.vector_norm(tensor, dtype=torch.float32).item() / tensor.numel() ** 0.5
    return bool(longest_row < FLOAT16_MAX and rms > FLOAT16_SMALLEST_RMS)
