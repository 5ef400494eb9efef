"""Token embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics


class Embedding(nn.Module):
    """A table of ``rows`` vectors; eats `weight` [rows, size], kept in a plain format."""

    def __init__(self, rows: int, size: int, numerics: Numerics) -> None:
        super().__init__()
        self.rows = rows
        self.size = size
        self.numerics = numerics

    def load(self, weights: Weights) -> None:
        """Take the table from the checkpoint; a tied output layer multiplies with the same one."""
        self.weight = self.numerics.plain.make([weights.take("weight", (self.rows, self.size))])

    def forward(self, ids: Tensor) -> Tensor:
        """ids [T] → [T, size] in the activations' format."""
        return self.weight.rows(ids).to(self.numerics.activations)

    def extra_repr(self) -> str:
        return f"{self.rows} × {self.size}"
