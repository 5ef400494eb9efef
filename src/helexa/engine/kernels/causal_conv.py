"""The short causal convolution in front of a recurrent layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def causal_conv(x: Tensor, before: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """silu(Σⱼ weight[j] · u[t + j]), each channel for itself, over u = before | x.

    x [..., L, C] are the new inputs, before [..., K − 1, C] those in front of them (zeros at the
    start of a sequence), weight [K, C] float32. → the outputs [..., L, C] in x's dtype, computed in
    float32, and the last K − 1 inputs in the dtype of ``before``: what the next call takes as that.
    """
    length, kernel = x.shape[-2], len(weight)
    inputs = torch.cat((before.to(x.dtype), x), -2)
    wide = inputs.float()
    out = wide[..., :length, :] * weight[0]
    for j in range(1, kernel):
        out.addcmul_(wide[..., j : j + length, :], weight[j])
    return F.silu(out).to(x.dtype), inputs[..., length:, :].to(before.dtype)
