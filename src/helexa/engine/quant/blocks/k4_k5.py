"""Blocks of 256 numbers, in eight groups with a scale and an offset of six bits: Q4_K, Q5_K.

Bytes of a block: d and dmin (float16), 12 of scales and offsets, in Q5_K 32 of fifth bits (bit s
of byte j for number j of group s), 128 of nibbles (bytes 32p … 32p + 31: low halves group 2p, high
ones group 2p + 1). Values are d · scale · q − dmin · offset. Source: GGUF documentation.
"""

from __future__ import annotations

from functools import partial

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
from helexa.engine.quant.blocks.fit import fit_affine, halved_sum, quotient, solved

TOP_SCALE = 63
ALL_BITS = tuple(range(8))


def scales_and_offsets(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks → the six-bit scale and offset of each group, [..., 8] uint8 both.

    Of the 12 bytes, the first four hold scales 0-3 in their low six bits, the next four offsets
    0-3; the last four the low nibbles of scales and offsets 4-7, whose two high bits are those
    that the first eight have to spare.
    """
    a, b, c = torch.unflatten(blocks[..., 4:16], -1, (3, 4)).unbind(-2)
    scales = torch.cat([a & 63, (c & 15) | ((a >> 6) << 4)], -1)
    offsets = torch.cat([b & 63, (c >> 4) | ((b >> 6) << 4)], -1)
    return scales, offsets


def packed_scales(scales: Tensor, offsets: Tensor) -> Tensor:
    """The reverse of `scales_and_offsets`: two times [..., 8] uint8 → 12 bytes."""
    (low_s, high_s), (low_m, high_m) = scales.chunk(2, -1), offsets.chunk(2, -1)
    a, b = low_s | ((high_s >> 4) << 6), low_m | ((high_m >> 4) << 6)
    return torch.cat([a, b, (high_s & 15) | ((high_m & 15) << 4)], -1)


def unpack_q4_k(blocks: Tensor) -> Groups:
    return with_scales(blocks, spread(torch.unflatten(blocks[..., 16:], -1, (4, 32)), (0, 4), 15))


def unpack_q5_k(blocks: Tensor) -> Groups:
    nibbles = spread(torch.unflatten(blocks[..., 48:], -1, (4, 32)), (0, 4), 15)
    fifth = spread(blocks[..., 16:48], ALL_BITS, 1).mul_(16)
    return with_scales(blocks, nibbles.bitwise_or_(fifth.view(nibbles.shape)))


def with_scales(blocks: Tensor, q: Tensor) -> Groups:
    """Integers [..., 4, 2, 32] beside the scales and offsets of their blocks."""
    return levels(blocks).groups(q.flatten(-3))


def levels(blocks: Tensor) -> Levels:
    """Blocks → d and dmin, and the scale and offset of each group."""
    scales, offsets = scales_and_offsets(blocks)
    return Levels(half(blocks, 0), scales, half(blocks, 2), offsets)


def quantise(x: Tensor, *, bits: int) -> Tensor:
    """Values [..., 256] → blocks [..., nbytes] of Q4_K (4 bits) or Q5_K.

    Each group gets the best scale and offset it can have alone; then these are rounded to six
    bits, the integers found anew, and d and dmin fitted to all 256 by least squares.
    """
    groups = x.reshape(-1, 8, 32).permute(2, 0, 1).contiguous()  # [32, blocks, 8]
    top = (1 << bits) - 1
    scale, offset = fit_affine(groups, top)
    offset = -offset
    d, dmin = (unit(part.amax(-1, keepdim=True), TOP_SCALE) for part in (scale, offset))
    sc, m = (
        quotient(part, unit).round_().clamp_(0, TOP_SCALE)
        for part, unit in ((scale, d), (offset, dmin))
    )
    q = nearest(groups, d * sc, dmin * m, top)
    d, dmin = refit(groups, q * sc, m, d, dmin)
    q = nearest(groups, d * sc, dmin * m, top).permute(1, 2, 0).to(torch.uint8)
    head = [half_bytes(d.squeeze(-1)), half_bytes(dmin.squeeze(-1))]
    head.append(packed_scales(sc.to(torch.uint8), m.to(torch.uint8)))
    return torch.unflatten(torch.cat([*head, *packed(q, bits)], -1), 0, x.shape[:-1])


def nearest(groups: Tensor, scale: Tensor, offset: Tensor, top: int) -> Tensor:
    """The integers [32, blocks, 8] with which scale · q − offset comes closest."""
    return quotient(groups + offset, scale).round_().clamp_(0, top)


def refit(x: Tensor, a: Tensor, m: Tensor, d: Tensor, dmin: Tensor) -> tuple[Tensor, Tensor]:
    """The d and dmin [blocks, 1] that make Σ (x − d·a + dmin·m)² least, a and m given.

    x and a [32, blocks, 8], m [blocks, 8]. Those given stay where there is no better pair that
    float16 holds and that is positive.
    """
    b = -m.expand_as(a)
    aa, ab, bb, ax, bx = (
        halved_sum(halved_sum(u * v).T).unsqueeze(-1)
        for u, v in ((a, a), (a, b), (b, b), (a, x), (b, x))
    )

    def explained(u: Tensor, v: Tensor) -> Tensor:
        return 2 * (u * ax + v * bx) - (u * u * aa + 2 * (u * v * ab) + v * v * bb)

    new_d, new_dmin = (to_half(part) for part in solved(aa, ab, bb, ax, bx))
    good = (new_d > 0) & (new_dmin >= 0) & (explained(new_d, new_dmin) > explained(d, dmin))
    return torch.where(good, new_d, d), torch.where(good, new_dmin, dmin)


def packed(q: Tensor, bits: int) -> list[Tensor]:
    """Integers [blocks, 8, 32] → the fifth bits, if any, and the nibbles, as bytes."""
    pairs = torch.unflatten(q & 15, 1, (4, 2))
    parts = [(pairs[:, :, 0] | (pairs[:, :, 1] << 4)).flatten(1)]
    if bits == 5:
        weight = (1 << torch.arange(8, dtype=torch.uint8, device=q.device)).view(8, 1)
        parts.insert(0, ((q >> 4) * weight).sum(1, dtype=torch.uint8))
    return parts


K4_K5 = (
    BlockType("Q4_K", 12, 256, 144, 32, 4, 0, unpack_q4_k, partial(quantise, bits=4), levels),
    BlockType("Q5_K", 13, 256, 176, 32, 5, 0, unpack_q5_k, partial(quantise, bits=5), levels),
)
