"""Causal attention of one sequence's new tokens over all its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from helexa.engine.kernels.prompt_attention import block_attention, pays_blocks

if TYPE_CHECKING:
    from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
SUMMED_MIN_KEYS = 192
"""Where `summed_attention` begins to be the faster way for one token."""
FEW_ROWS = 16
"""Up to which `tiled_attention` is the faster way: a draft, not a prompt."""
TILE_KEYS = 512
TILE_NUMBERS = 1 << 19
"""Of a tile of keys for one token: fewer groups or dims leave room for more keys, and each tile has
its price. With one group of 64 dims that is 1.3 (one thread) to 1.7 times (two) the speed."""


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
    """`attention_definition` in the fastest way there is for these sizes and this device.

    Mostly torch's fused operator, with no key or value copied per head.
    """
    length, heads, dim = q.shape
    _, groups, total, _ = kv.shape
    if length <= FEW_ROWS and total >= SUMMED_MIN_KEYS and summable(q, kv):
        return (summed_attention if length == 1 else tiled_attention)(q, kv)
    if pays_blocks(q, total):
        return block_attention(q, kv)
    k, v = kv.to(q.dtype).unsqueeze(2).unbind()  # [G, 1, S, D]
    if length == 1:  # one token: the heads of a group are the rows of one small product
        rows = q.view(groups, 1, heads // groups, dim)
        return F.scaled_dot_product_attention(rows, k, v).view(q.shape)
    shape = (groups, heads // groups, total, dim)  # groups as batch: heads share keys, stride 0
    rows = q.view(length, groups, heads // groups, dim).permute(1, 2, 0, 3)
    keys, values = k.expand(shape), v.expand(shape)
    causal = length == total  # is_causal aligns top left, which is only right for a square
    mask = None if causal else last_rows(length, total, q.device)
    out = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, is_causal=causal)
    return out.permute(2, 0, 1, 3).reshape(q.shape)


def summable(q: Tensor, kv: Tensor) -> bool:
    """Whether `summed_attention` can take these: a 16-bit cache on a CPU, rows side by side."""
    _, by_group, by_token, by_dim = kv.stride()
    dim = kv.shape[-1]
    side_by_side = by_dim == 1 and by_token == dim and by_group % dim == 0
    return not q.is_cuda and q.dtype == torch.float32 and kv.dtype in HALF and side_by_side


def summed_attention(q: Tensor, kv: Tensor) -> Tensor:
    """`attention_definition` for one token over a 16-bit cache on a CPU, for long contexts.

    q [1, H, D] float32, kv [2, G, S, D] as `summable` wants it → [1, H, D]. Widening the whole
    cache costs more than attending over it, so only a tile of keys at a time is widened, and the
    values are summed where they lie, by `torch.embedding_bag`; it wants the probabilities in the
    cache's format.
    """
    _, heads, dim = q.shape
    _, groups, total, _ = kv.shape
    k, v = kv
    rows = (q * dim**-0.5).view(groups, heads // groups, dim)
    scores = q.new_empty(groups, heads // groups, total)
    most = max(TILE_KEYS, TILE_NUMBERS // (groups * dim))
    tile = q.new_empty(groups, min(total, most), dim)
    for start in range(0, total, most):
        part = k[:, start : start + most]
        wide = tile[:, : part.shape[1]].copy_(part)
        scores[..., start : start + most] = torch.bmm(rows, wide.transpose(1, 2))
    apart = v.stride(0) // dim
    table = v.as_strided(((groups - 1) * apart + total, dim), (dim, 1))
    first = torch.arange(heads, dtype=torch.int32).floor_divide_(heads // groups).mul_(apart)
    places = first[:, None] + torch.arange(total, dtype=torch.int32)
    starts = torch.arange(0, heads * total, total, dtype=torch.int32)
    shares = scores.softmax(-1).to(v.dtype).view(-1)
    sums = torch.embedding_bag(table, places.view(-1), starts, mode=0, per_sample_weights=shares)
    return sums[0].view(q.shape).to(q.dtype)


def tiled_attention(q: Tensor, kv: Tensor) -> Tensor:
    """`attention_definition` for a few tokens over a 16-bit cache on a CPU, for long contexts.

    q [L, H, D] float32, kv [2, G, S, D] as `summable` wants it → [L, H, D]. A tile of keys, and
    then of values, is widened for all rows of a group: the whole cache never is.
    """
    length, _, dim = q.shape
    _, groups, total, _ = kv.shape
    rows = (q * dim**-0.5).view(length, groups, -1, dim).transpose(0, 1).reshape(groups, -1, dim)
    scores = q.new_empty(*rows.shape[:2], total)
    tile = q.new_empty(groups, min(total, TILE_KEYS), dim)
    spans = [slice(start, start + TILE_KEYS) for start in range(0, total, TILE_KEYS)]
    for span in spans:
        part = kv[0, :, span]
        wide = tile[:, : part.shape[1]].copy_(part)
        scores[..., span] = torch.bmm(rows, wide.transpose(1, 2))
    newest = scores.view(groups, length, -1, total)[..., total - length :]
    newest.masked_fill_(~visible(length, length, q.device).unsqueeze(1), -torch.inf)
    shares, out = scores.softmax(-1), torch.zeros_like(rows)
    for span in spans:
        part = kv[1, :, span]
        out.baddbmm_(shares[..., span], tile[:, : part.shape[1]].copy_(part))
    return out.view(groups, length, -1, dim).transpose(0, 1).reshape(q.shape)


def last_rows(length: int, total: int, device: torch.device) -> Tensor:
    """`visible` for torch's operator: on a GPU a name for it, which its kernels know."""
    if device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right  # with half of torch's compiler

        return causal_lower_right(length, total)
    return visible(length, total, device)


def visible(length: int, total: int, device: torch.device) -> Tensor:
    """Bool [length, total]: which keys the last ``length`` of ``total`` positions may see."""
    keys = torch.arange(total, device=device)
    return keys <= keys[total - length :, None]
