"""Token embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from helexa.engine.kernels.stored_matrix import BLOCKS, StoredMatrix, device_of
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
        self.by_kernel: StoredMatrix | None = None

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
            if self.numerics.fused_ops and plain.kernels and self.blocks.name in BLOCKS:
                self.by_kernel = StoredMatrix(self.blocks.name, (self.table,), shape)
            return
        if tied:
            self.weight = plain.make([weights.take("weight", shape)])
        if isinstance(self.weight, DenseWeight):
            self.table = self.weight.tensor
        else:
            self.table = plain.table(weights.take("weight", shape))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [T] → [T, size] in the activations' format."""
        if self.by_kernel is not None:
            from helexa.engine.kernels.look_up_triton import look_up  # not everyone has triton

            with device_of(ids):
                return look_up(ids, self.by_kernel, self.numerics.activations)
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
