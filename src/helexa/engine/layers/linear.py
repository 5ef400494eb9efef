"""Linear layers, over weights in any number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from helexa.engine.quant.on_device import DeviceWeight
from helexa.engine.quant.stored import load_matrix

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight


class Linear(nn.Module):
    """y = x @ Wᵀ + b, where W may be several matrices of the checkpoint stacked (q|k|v, gate|up).

    ``outputs`` are their numbers of rows. Each eats `weight` [rows, inputs] and, with ``bias``,
    `bias` [rows].
    """

    weight: Weight

    def __init__(self, inputs: int, *outputs: int, bias: bool, numerics: Numerics) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.numerics = numerics
        self.has_bias = bias
        self.bias: Tensor | None
        self.register_buffer("bias", None)

    def load(self, *weights: Weights) -> None:
        """Stack the matrices of these places (see `quant.stored`)."""
        self.weight = load_matrix(weights, self.outputs, self.inputs, self.numerics)
        if self.has_bias:
            pairs = zip(weights, self.outputs, strict=True)
            self.bias = torch.cat([w.tensor("bias", shape=(rows,)) for w, rows in pairs])

    def forward(self, x: Tensor) -> Tensor:
        """x [T, inputs] → [T, sum of outputs] in x's dtype."""
        y = self.weight.matmul(x)
        return y if self.bias is None else y.add_(self.bias)

    def splits(self, x: Tensor) -> Tensor:
        """The same for who adds up what is left to be: splits [S, T, …] float32, if there are any.

        That spares a GPU a launch and reading and writing the result once more.
        """
        if self.bias is None and isinstance(self.weight, DeviceWeight):
            return self.weight.split_matmul(x)
        out: Tensor = self(x)
        return out

    @property
    def nbytes(self) -> int:
        """Bytes its matrix takes in memory."""
        return self.weight.nbytes

    def extra_repr(self) -> str:
        return f"{self.inputs} → {' | '.join(map(str, self.outputs))}"
