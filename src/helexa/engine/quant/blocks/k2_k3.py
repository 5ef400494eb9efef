"""Blocks of 256 numbers of two or three bits, in 16 groups: Q2_K, Q3_K. They are only read.

Two bits of number 128h + 32g + j lie in bits 2g, 2g + 1 of byte 32h + j of ``qs``.

Q2_K: 16 bytes with a scale (low nibble) and an offset (high) each, 64 of qs, d and dmin (float16);
values are d · scale · q − dmin · offset.
Q3_K: 32 bytes of third bits (bit 4h + g of byte j), 64 of qs, 12 of scales, d (float16); the scales
have their low nibbles in the first eight bytes and two high bits in the last four. Values are
d · (scale − 32) · (q − 4). Source: GGUF documentation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helexa.engine.quant.blocks.block_type import BlockType, Groups, Levels, half, spread

PAIRS = (0, 2, 4, 6)
ALL_BITS = tuple(range(8))


def two_bits(qs: Tensor) -> Tensor:
    """[..., 64] → [..., 256] integers of two bits."""
    return spread(torch.unflatten(qs, -1, (2, 32)), PAIRS, 3).flatten(-3)


def unpack_q2_k(blocks: Tensor) -> Groups:
    return levels_q2_k(blocks).groups(two_bits(blocks[..., 16:80]))


def levels_q2_k(blocks: Tensor) -> Levels:
    scales, offsets = blocks[..., :16] & 15, blocks[..., :16] >> 4
    return Levels(half(blocks, 80), scales, half(blocks, 82), offsets)


def unpack_q3_k(blocks: Tensor) -> Groups:
    third = spread(blocks[..., :32], ALL_BITS, 1).flatten(-2)
    return levels_q3_k(blocks).groups(two_bits(blocks[..., 32:96]) | (third << 2))


def levels_q3_k(blocks: Tensor) -> Levels:
    low = spread(blocks[..., 96:104], (0, 4), 15).flatten(-2)
    high = spread(blocks[..., 104:108], PAIRS, 3).flatten(-2)
    return Levels(half(blocks, 108), (low | (high << 4)).view(torch.int8) - 32)


K2_K3 = (
    BlockType("Q2_K", 10, 256, 84, 16, 2, 0, unpack_q2_k, levels=levels_q2_k),
    BlockType("Q3_K", 11, 256, 110, 16, 3, 4, unpack_q3_k, levels=levels_q3_k),
)
