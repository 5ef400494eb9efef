"""Normalisation with learned weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from helexa.engine.kernels.rms_norm import norm_constants, rms_norm

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.checkpoint.weights import Weights


class RMSNorm(nn.Module):
    """RMSNorm over the last axis, of ``size`` values; eats `weight` [size].

    ``zero_centred``: it is 1 + weight that is multiplied by.
    """

    gain: Tensor
    floor: Tensor

    def __init__(self, size: int, eps: float, *, zero_centred: bool = False) -> None:
        super().__init__()
        self.size = size
        self.eps = eps
        self.zero_centred = zero_centred
        self.register_buffer("gain", torch.empty(0))  # made when the size is known to be true
        self.register_buffer("floor", torch.empty(0))

    def load(self, weights: Weights) -> None:
        """Take the weight from the checkpoint."""
        weight = norm_weight(weights, self.size, zero_centred=self.zero_centred)
        self.gain, self.floor = norm_constants(weight, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] → the same shape and dtype."""
        return rms_norm(x, self.gain, self.floor)


class GatedRMSNorm(RMSNorm):
    """RMSNorm(x) · silu(z): x is normalised first, and z decides how much of it passes."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]  # it takes z, too
        """x and z [..., size] → the same shape, in x's dtype."""
        return rms_norm(x, self.gain, self.floor).mul_(F.silu(z.float())).to(x.dtype)


def norm_weight(weights: Weights, size: int, *, zero_centred: bool) -> Tensor:
    """What a norm multiplies by: `weight` [size] of the checkpoint, or 1 + that."""
    weight = weights.tensor("weight", shape=(size,))
    return 1 + weight.float() if zero_centred else weight
