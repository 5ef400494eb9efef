"""The dense feed-forward block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from helexa.engine.kernels.silu_mul import silu_mul
from helexa.engine.layers.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.config import ModelConfig
    from helexa.engine.numerics import Numerics


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)); eats `gate_proj`, `up_proj` and `down_proj`.

    ``size`` is `intermediate_size` by default.
    """

    def __init__(self, config: ModelConfig, numerics: Numerics, size: int | None = None) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.mlp_bias
        size = size or config.intermediate_size
        self.gate_up = Linear(hidden, size, size, bias=bias, numerics=numerics)
        self.down = Linear(size, hidden, bias=bias, numerics=numerics)
        self.act = silu_mul
        if numerics.fused_ops:
            from helexa.engine.kernels.silu_mul_triton import silu_mul_on_device

            self.act = silu_mul_on_device  # imported here: not everyone has triton

    def load(self, weights: Weights) -> None:
        """Fill both linears."""
        self.gate_up.load(weights / "gate_proj", weights / "up_proj")
        self.down.load(weights / "down_proj")

    def forward(self, x: Tensor) -> Tensor:
        """x [T, hidden] → the same shape."""
        out: Tensor = self.down(self.act(self.gate_up(x)))
        return out
