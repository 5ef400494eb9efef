"""Several weights as one: the rows of a fused layer that are not all in one format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.quant.weight import Weight


@dataclass(frozen=True, slots=True, eq=False)
class StackedWeight:
    """Weights [N_i, K] one below the other."""

    parts: tuple[Weight, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, float32."""
        return torch.cat([part.matrix().float() for part in self.parts])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        found, first = [], 0
        for part in self.parts:
            last = first + part.shape[0]
            if start < last and first < stop:
                found.append(matrix_rows(part, max(start, first) - first, min(stop, last) - first))
            first = last
        return torch.cat(found)

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        return torch.cat([part.matmul(x) for part in self.parts], -1)


def parts_of(weight: Weight) -> tuple[Weight, ...]:
    """The weights that one consists of: itself, if it is no stack."""
    return weight.parts if isinstance(weight, StackedWeight) else (weight,)


@runtime_checkable
class ReadByRows(Protocol):
    """A weight that can say what some of its rows are without making the whole matrix."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`, [stop − start, K] float32."""


def matrix_rows(weight: Weight, start: int, stop: int) -> Tensor:
    """Rows start … stop of a weight's matrix, [stop − start, K] float32."""
    if isinstance(weight, ReadByRows):
        return weight.rows(start, stop)
    return weight.matrix()[start:stop].float()


def stack(weights: Sequence[Weight]) -> Weight:
    """One weight of all of them."""
    return weights[0] if len(weights) == 1 else StackedWeight(tuple(weights))
