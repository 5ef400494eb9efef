"""Weights that are plain matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from helexa.engine.kernels.matvec import Bags, Scratch, expanded_product, one_row_product
from helexa.engine.kernels.panels import (
    PANEL,
    expanded_panel_product,
    pack,
    panel_rows,
    summed_product,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FLOAT16_MAX = 65504.0
FLOAT16_MIN_SCALE = 2.0**-10
"""Below this largest value, what float16 rounds away (at most 2⁻²⁵) would begin to count."""
FEW_ROWS_MIN_ELEMENTS = 2**19
"""Smaller matrices lie in cache, where 16 bits save no time: they are expanded once."""
PANEL_ROWS = 2
"""Up to so many rows of activations, reading panels as they are beats expanding them."""


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

    def matrix(self) -> Tensor:
        """The whole matrix [N, K]."""
        return self.tensor

    def rows(self, ids: Tensor) -> Tensor:
        """The rows ``ids`` [T]: [T, K]."""
        return self.tensor.index_select(0, ids)

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
    one_row: bool

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(x) == 1 and self.one_row:
            return one_row_product(x, self.tensor)
        return expanded_product(x, self.tensor, self.scratch)


@dataclass(frozen=True, slots=True, eq=False)
class PanelWeight(DenseWeight):
    """As HalfWeight, with the matrix in panels [N/64, K, 64] (see `kernels.panels`)."""

    scratch: Scratch
    bags: Bags

    @property
    def shape(self) -> tuple[int, int]:
        count, columns, width = self.tensor.shape
        return count * width, columns

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out of its panels."""
        return unpack(self.tensor)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows ``ids`` [T]: [T, K]."""
        return panel_rows(self.tensor, ids)

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(x) == 1:
            return summed_product(x, self.tensor, self.bags)
        if 1 < len(x) <= PANEL_ROWS:
            return torch.cat([summed_product(row[None], self.tensor, self.bags) for row in x])
        return expanded_panel_product(x, self.tensor, self.scratch)


@dataclass(frozen=True, slots=True)
class DenseFormat:
    """Keeps weights as plain matrices of ``dtype`` on ``device``.

    ``prefer_float16`` replaces bfloat16 wherever float16 holds a matrix as well: CPUs multiply it
    faster and it rounds finer. ``panels`` lays large 16-bit matrices out in panels. ``kernels``
    False leaves every product to one torch operator.
    """

    dtype: torch.dtype
    device: torch.device
    prefer_float16: bool = False
    panels: bool = False
    kernels: bool = True
    scratch: Scratch = field(default_factory=lambda: Scratch(), compare=False)

    def make(self, parts: Sequence[Tensor]) -> DenseWeight:
        """Stack the matrices [N_i, K] into one; a single one that needs no change is shared."""
        own_kernels = self.device.type == "cpu" and self.dtype.itemsize == 2 and self.kernels
        if own_kernels and sum(part.numel() for part in parts) < FEW_ROWS_MIN_ELEMENTS:
            return DenseWeight(self.stacked(parts, torch.float32))
        dtype = self.dtype
        if self.prefer_float16 and all(fits_float16(part) for part in parts):
            dtype = torch.float16
        if not own_kernels:
            return DenseWeight(self.stacked(parts, dtype))
        if self.panels and all(len(part) % PANEL == 0 for part in parts):
            panels = self.packed(parts, dtype)
            count, columns, _ = panels.shape
            return PanelWeight(panels, self.scratch, self.scratch.bags(count, columns, dtype))
        one_row = dtype == torch.float16
        return HalfWeight(self.stacked(parts, dtype), self.scratch, one_row)

    def stacked(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """The matrices one below the other, each converted straight into its place."""
        if len(parts) == 1:
            return parts[0].to(device=self.device, dtype=dtype)
        rows = sum(len(part) for part in parts)
        out = torch.empty((rows, parts[0].shape[1]), dtype=dtype, device=self.device)
        start = 0
        for part in parts:
            out[start : start + len(part)].copy_(part)
            start += len(part)
        return out

    def packed(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """As `stacked`, in panels [N/64, K, 64]."""
        count = sum(len(part) for part in parts) // PANEL
        out = torch.empty((count, parts[0].shape[1], PANEL), dtype=dtype, device=self.device)
        start = 0
        for part in parts:
            stop = start + len(part) // PANEL
            pack(part, out[start:stop])
            start = stop
        return out


def fits_float16(tensor: Tensor) -> bool:
    """Whether float16 holds a matrix [N, K], and its products with rows up to 1, without harm."""
    if tensor.dtype == torch.float16 or not tensor.numel():
        return True
    low, high = (value.item() for value in tensor.aminmax())
    largest = max(-low, high)
    if largest * tensor.shape[-1] >= FLOAT16_MAX:  # a bound of the products; now exactly:
        longest = torch.linalg.vector_norm(tensor, 1, -1, dtype=torch.float32).max().item()
        return bool(longest < FLOAT16_MAX)
    return largest >= FLOAT16_MIN_SCALE
