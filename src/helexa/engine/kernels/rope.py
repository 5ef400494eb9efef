"""Rotary position embedding of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


LARGE = 2**18
"""Numbers that no longer lie in a core's cache together with what is made of them."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first d dims of every head by its token's angles.

    x [T, H, D], cos and sin [T, 1, d] float32 → like x. With a, b the halves of those d dims the
    result is (a·cos − b·sin, b·cos + a·sin); **sin is expected with its first half negated**, so
    that both halves are x·cos + swap(x)·sin. The other dims pass. Source: arXiv:2104.09864 §3.4.
    """
    d = cos.shape[-1]
    turned = x if d == x.shape[-1] else x[..., :d]
    if turned.numel() < LARGE or x.is_cuda:
        out = torch.addcmul(turned * cos, turned.roll(d // 2, -1), sin).to(x.dtype)
    else:
        out = rotated_in_place(turned, cos, sin).to(x.dtype)
    return out if d == x.shape[-1] else torch.cat((out, x[..., d:]), -1)


def rotated_in_place(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same for d = D, in float32: no swapped copy is made.

    For 512 tokens with 24 heads of 128 dims it takes 0.4 ms instead of 0.9 to 1.5, with one thread
    of an AMD EPYC; few tokens are faster by fewer operators.
    """
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
