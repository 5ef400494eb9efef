"""Normalisation with learned weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from helexa.engine.kernels.rms_norm import rms_norm

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights


class RMSNorm(nn.Module):
    """RMSNorm over the last axis, of ``size`` values; eats `weight` [size]."""

    weight: Tensor

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.size = size
        self.eps = eps
        self.register_buffer("weight", torch.ones(size))

    def load(self, weights: Weights) -> None:
        """Take the weight from the checkpoint, in the activations' format."""
        self.weight = weights.tensor("weight", shape=(self.size,))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] → the same shape and dtype."""
        return rms_norm(x, self.weight, self.eps)
