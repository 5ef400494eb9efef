"""Rotary position embedding of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first d dims of every head by its token's angles.

    x [T, H, D], cos and sin [T, 1, d] float32 → like x. With a, b the halves of those d dims the
    result is (a·cos − b·sin, b·cos + a·sin); **sin is expected with its first half negated**, so
    that both halves are x·cos + swap(x)·sin. The other dims pass. Source: arXiv:2104.09864 §3.4.
    """
    d = cos.shape[-1]
    turned = x if d == x.shape[-1] else x[..., :d]
    out = torch.addcmul(turned * cos, turned.roll(d // 2, -1), sin).to(x.dtype)
    return out if d == x.shape[-1] else torch.cat((out, x[..., d:]), -1)
