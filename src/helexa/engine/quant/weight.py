"""What a linear layer knows of its weight: how to multiply with it, and what it weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Weight(Protocol):
    """A matrix [N, K] in some number format."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): outputs, inputs."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory, scales included."""

    def matrix(self) -> Tensor:
        """The whole matrix [N, K]: what `matmul` multiplies with, but for rounding."""

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ: x [T, K] → [T, N] in x's dtype, accumulated in float32."""


class WeightFormat(Protocol):
    """A way to store weights."""

    def make(self, parts: Sequence[Tensor]) -> Weight:
        """Take the matrices [N_i, K] of a checkpoint, stacked to one [ΣN_i, K]."""
