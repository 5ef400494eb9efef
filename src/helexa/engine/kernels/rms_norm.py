"""Root-mean-square normalisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rms_norm(x: Tensor, gain: Tensor, floor: Tensor) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axis, in float32, as five operators.

    x [..., D], gain [D] or [H, D] and floor [] from `norm_constants` → like x. Both sides of the
    fraction are multiplied by √D: x / √(‖x‖² + floor²) · gain. Source: arXiv:1910.07467.
    """
    wide = x.float()
    length: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide / length.hypot_(floor)).mul_(gain).to(x.dtype)


def add_rms_norm(x: Tensor, change: Tensor | None, gain: Tensor, floor: Tensor) -> Tensor:
    """The norm of a residual stream that a layer has changed: `rms_norm` of x += change.

    x and change [T, D], gain [D], floor [] → like x; the sum, rounded to x's dtype, is left in x.
    """
    if change is not None:
        x += change
    return rms_norm(x, gain, floor)


def norm_constants(weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """For a weight [..., D]: gain = weight · √D [..., D] and floor = √(D · eps) [], float32."""
    size = weight.shape[-1]
    gain = weight.float() * math.sqrt(size)
    return gain, gain.new_tensor(math.sqrt(size * eps))
