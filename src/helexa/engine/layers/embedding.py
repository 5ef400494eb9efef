"""Token embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.dense import DenseWeight
from helexa.engine.quant.insitu import for_logits
from helexa.engine.quant.stored import load_matrix

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.blocks.block_type import BlockType
    from helexa.engine.quant.weight import Weight


class Embedding(nn.Module):
    """A table of ``rows`` vectors; eats `weight` [rows, size], kept as it is or in a plain format.

    ``weight`` is the same matrix to multiply with, for an output layer that is tied to it.
    """

    weight: Weight | None

    def __init__(self, rows: int, size: int, numerics: Numerics) -> None:
        super().__init__()
        self.rows = rows
        self.size = size
        self.numerics = numerics
        self.weight = None
        self.blocks: BlockType | None = None

    def load(self, weights: Weights, *, tied: bool) -> None:
        """Take the table from the checkpoint.

        One that is packed to be multiplied is looked up in the checkpoint's file: taken a second
        time, when the pages that the packing read are free again.
        """
        numerics = for_logits(self.numerics)
        plain, shape = numerics.plain, (self.rows, self.size)
        self.blocks = BLOCK_TYPES.get(weights.dtype_of("weight"))
        if self.blocks is not None:
            if tied:
                self.weight = load_matrix([weights], [self.rows], self.size, numerics)
            self.table = weights.stored("weight", shape).to(plain.device)
            return
        if tied:
            self.weight = plain.make([weights.take("weight", shape)])
        if isinstance(self.weight, DenseWeight):
            self.table = self.weight.tensor
        else:
            self.table = plain.table(weights.take("weight", shape))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [T] → [T, size] in the activations' format."""
        rows = self.table.index_select(0, ids)
        if self.blocks is not None:
            rows = self.blocks.matrix(rows)
        return rows.to(self.numerics.activations)

    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory, a table that stays in its file not counted twice."""
        return self.table.nbytes if self.weight is None else self.weight.nbytes

    def extra_repr(self) -> str:
        return f"{self.rows} × {self.size}"
