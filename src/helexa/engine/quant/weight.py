"""What a linear layer knows of its weight: how to multiply with it, and what it weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch

from helexa.engine.kernels.few_rows import PLAIN, FewRows, Plan, few_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler


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


class Recipe(NamedTuple):
    """How few rows are multiplied with a matrix, for a compiler to take into a larger function.

    ``function(*statics, x, *tensors)``, x [T, K] float32 and ``taken`` tensors, is x @ Wᵀ
    [T, ≥ rows], of which the first ``rows`` columns are wanted. ``plan``:
    how that is compiled best.
    """

    function: Callable[..., Tensor]
    statics: tuple[Hashable, ...]
    taken: int
    rows: int
    plan: Plan = PLAIN


class Traced(NamedTuple):
    """A recipe, and the tensors of one matrix."""

    recipe: Recipe
    tensors: tuple[Tensor, ...]

    def own_kernels(self, columns: int, compiler: Compiler) -> FewRows:
        """The product x @ Wᵀ by itself, x [T, columns], with kernels still to be compiled."""

        def example(rows: int) -> list[Tensor]:
            return [torch.empty(rows, columns)]

        function, statics, plan = self.recipe.function, self.recipe.statics, self.recipe.plan
        return few_rows(compiler, function, statics, example, self.tensors, plan)


@runtime_checkable
class Traceable(Protocol):
    """A weight whose product with few rows a compiler can take into a larger function."""

    @property
    def traced(self) -> Traced:
        """How."""


@runtime_checkable
class Compilable(Protocol):
    """A weight with kernels of its own, which need not be compiled where others replace them."""

    @property
    def few(self) -> FewRows:
        """The product with few rows, by these kernels."""


def multiplied(recipes: Sequence[Recipe], x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """x @ Wᵀ for matrices one below the other, and the tensors of all of them: → [T, ΣN]."""
    left = list(tensors)
    parts = []
    for recipe in recipes:
        mine, left = left[: recipe.taken], left[recipe.taken :]
        parts.append(recipe.function(*recipe.statics, x, *mine)[:, : recipe.rows])
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
