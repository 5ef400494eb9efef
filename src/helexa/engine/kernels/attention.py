"""Causal attention of one sequence's new tokens over all its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def attention_definition(q: Tensor, kv: Tensor) -> Tensor:
    """What `attention` computes, written out.

    q [L, H, D] are the last L of the S positions of the keys and values, kv [2, G, S, D]; query i
    sees the keys j ≤ S − L + i; query head h uses key head ⌊h·G/H⌋. → [L, H, D] in q's dtype,
    scores and softmax in float32.
    """
    length, heads, dim = q.shape
    _, groups, total, _ = kv.shape
    k, v = kv.float()
    grouped = q.float().view(length, groups, heads // groups, dim)
    scores = torch.einsum("lgrd,gsd->grls", grouped, k) * dim**-0.5
    scores = scores.masked_fill(~visible(length, total, q.device), -torch.inf)
    out = torch.einsum("grls,gsd->lgrd", scores.softmax(-1), v)
    return out.reshape(q.shape).to(q.dtype)


def attention(q: Tensor, kv: Tensor) -> Tensor:
    """`attention_definition` through torch's fused operator, no key or value copied per head."""
    length, heads, dim = q.shape
    _, groups, total, _ = kv.shape
    k, v = kv.to(q.dtype).unsqueeze(2).unbind()  # [G, 1, S, D]
    if length == 1:  # one token: the heads of a group are the rows of one small product
        rows = q.view(groups, 1, heads // groups, dim)
        return F.scaled_dot_product_attention(rows, k, v).view(q.shape)
    shape = (groups, heads // groups, total, dim)  # groups as batch: heads share keys, stride 0
    rows = q.view(length, groups, heads // groups, dim).permute(1, 2, 0, 3)
    keys, values = k.expand(shape), v.expand(shape)
    causal = length == total  # is_causal aligns top left, which is only right for a square
    mask = None if causal else visible(length, total, q.device)
    out = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, is_causal=causal)
    return out.permute(2, 0, 1, 3).reshape(q.shape)


def visible(length: int, total: int, device: torch.device) -> Tensor:
    """Bool [length, total]: which keys the last ``length`` of ``total`` positions may see."""
    keys = torch.arange(total, device=device)
    return keys <= keys[total - length :, None]
