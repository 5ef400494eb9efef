"""Normalisation with learned weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from helexa.engine.kernels.rms_norm import norm_constants, rms_norm

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights


class RMSNorm(nn.Module):
    """RMSNorm over the last axis, of ``size`` values; eats `weight` [size]."""

    gain: Tensor
    floor: Tensor

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.size = size
        self.eps = eps
        self.register_buffer("gain", torch.empty(0))  # made when the size is known to be true
        self.register_buffer("floor", torch.empty(0))

    def load(self, weights: Weights) -> None:
        """Take the weight from the checkpoint."""
        weight = weights.tensor("weight", shape=(self.size,))
        self.gain, self.floor = norm_constants(weight, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] → the same shape and dtype."""
        return rms_norm(x, self.gain, self.floor)
