"""Weights that a GPU multiplies with as they are stored, without expanding them first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from helexa.engine.kernels.stored_experts import MixedExperts, StoredExperts, experts_of_kinds
from helexa.engine.kernels.stored_matrix import StoredMatrix, device_of, has_triton
from helexa.engine.quant.dense import DenseWeight
from helexa.engine.quant.stack import ReadByRows, StackedWeight
from helexa.engine.quant.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.kernels.experts import Expert
    from helexa.engine.quant.dense import DenseFormat


@runtime_checkable
class Storable(Weight, ReadByRows, Protocol):
    """A weight that can tell kernels where its bytes are."""

    def stored(self) -> StoredMatrix | None:
        """The matrix for kernels; None if there is no decoder for it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DeviceWeight:
    """A weight [N, K], multiplied by kernels that read ``matrix_as_stored``."""

    weight: Storable
    matrix_as_stored: StoredMatrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], float32."""
        return self.weight.matrix()

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        return self.weight.rows(start, stop)

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] → [T, N] in x's dtype."""
        from helexa.engine.kernels.products_triton import product  # not everyone has triton

        with device_of(x):
            return product(x, self.matrix_as_stored)

    def split_matmul(self, x: Tensor) -> Tensor:
        """The same, or splits [S, T, N] float32 of it that have yet to be added up and rounded."""
        from helexa.engine.kernels.products_triton import split_product

        with device_of(x):
            return split_product(x, self.matrix_as_stored)


def for_device(weight: Storable, plain: DenseFormat) -> Weight:
    """The same weight, multiplied by kernels where they are wanted and run."""
    if plain.device.type != "cuda" or not plain.kernels or not has_triton():
        return weight
    return with_kernels(weight)


def with_kernels(weight: Storable) -> Weight:
    """The same weight, multiplied by kernels if they can read it."""
    matrix = weight.stored()
    return weight if matrix is None else DeviceWeight(weight, matrix)


def stored_experts(experts: Sequence[Expert]) -> StoredExperts | MixedExperts | None:
    """Experts for kernels that find them by their addresses.

    None unless all their matrices are plain or `DeviceWeight`.
    """
    found = []
    for expert in experts:
        gate_up, down = stored_parts(expert.gate_up), stored_parts(expert.down)
        if gate_up is None or down is None:
            return None
        found.append((gate_up, down))
    return experts_of_kinds(found)


def stored_parts(weight: Weight) -> tuple[StoredMatrix, ...] | None:
    """What a weight is made of, one below the other; None if kernels cannot read all of it."""
    if isinstance(weight, DeviceWeight):
        return (weight.matrix_as_stored,)
    if type(weight) is DenseWeight:
        return (StoredMatrix("plain", (weight.tensor,), weight.shape),)
    if isinstance(weight, StackedWeight):
        parts = [stored_parts(part) for part in weight.parts]
        known = [part for part in parts if part is not None]
        return sum(known, ()) if len(known) == len(parts) else None
    return None
