"""Blocks of 256 numbers of six bits, in 16 groups with a signed scale of eight: Q6_K.

Bytes of a block: 128 of low nibbles, 64 of high bit pairs, 16 scales, d (float16). With half h,
quarter g and j < 32, number 128h + 32g + j has the nibble of byte 64h + 32·(g mod 2) + j (the low
one for g < 2) and bits 2g, 2g + 1 of byte 32h + j. Values are d · scale · (q − 32). Source: GGUF
documentation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helexa.engine.quant.blocks.block_type import (
    BlockType,
    Groups,
    Levels,
    half,
    half_bytes,
    spread,
    to_half,
    unit,
)
from helexa.engine.quant.blocks.fit import fit_symmetric, halved_sum, quotient

LOW = -32
LARGEST_SCALE = 127


def unpack(blocks: Tensor) -> Groups:
    """[..., 210] → q [..., 256], one scale for each 16."""
    ql, qh = torch.unflatten(blocks[..., :128], -1, (2, 64)), blocks[..., 128:192]
    low = spread(ql, (0, 4), 15)  # [..., 2, 2, 64]
    high = spread(torch.unflatten(qh, -1, (2, 32)), (0, 2, 4, 6), 3)  # [..., 2, 4, 32]
    q = low.flatten(-2) | (high.flatten(-2) << 4)
    return levels(blocks).groups(q.flatten(-2))


def levels(blocks: Tensor) -> Levels:
    """[..., 210] → d, and one scale for each 16."""
    return Levels(half(blocks, 208), blocks[..., 192:208].view(torch.int8))


def quantise(x: Tensor) -> Tensor:
    """Values [..., 256] → blocks [..., 210].

    Each group gets the best scale it can have alone; these are rounded to eight bits, the integers
    found anew, and d fitted to all 256 by least squares.
    """
    groups = x.reshape(-1, 16, 16).permute(2, 0, 1).contiguous()  # [16, blocks, groups]
    scale = fit_symmetric(groups, LOW)
    d = unit(scale.abs().amax(-1, keepdim=True), LARGEST_SCALE)
    sc = quotient(scale, d).round_().clamp_(-LARGEST_SCALE, LARGEST_SCALE)
    a = nearest(groups, d * sc) * sc
    squares, products = (halved_sum(halved_sum(a * v).T).unsqueeze(-1) for v in (a, groups))
    better = to_half(quotient(products, squares))
    gains = [2 * u * products - u * u * squares for u in (better, d)]
    d = torch.where((better > 0) & (gains[0] > gains[1]), better, d)
    q = (nearest(groups, d * sc) - LOW).permute(1, 2, 0).to(torch.uint8).reshape(-1, 2, 4, 32)
    nibbles, pairs = q & 15, q >> 4
    low = nibbles[:, :, :2] | (nibbles[:, :, 2:] << 4)
    high = pairs[:, :, 0] | (pairs[:, :, 1] << 2) | (pairs[:, :, 2] << 4) | (pairs[:, :, 3] << 6)
    scales = sc.to(torch.int8).view(torch.uint8)
    parts = [low.flatten(1), high.flatten(1), scales, half_bytes(d.squeeze(-1))]
    return torch.unflatten(torch.cat(parts, -1), 0, x.shape[:-1])


def nearest(groups: Tensor, scale: Tensor) -> Tensor:
    """The integers −32 … 31 with which scale · q comes closest."""
    return quotient(groups, scale).round_().clamp_(LOW, -LOW - 1)


K6 = (BlockType("Q6_K", 14, 256, 210, 16, 6, -LOW, unpack, quantise, levels),)
