"""Blocks of 32 numbers with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Bytes of a block: the scale d, in the `_1` formats the offset m (both float16); in the 5-bit formats
the fifth bits of all 32 as one little-endian number; then 16 bytes of two integers each, the low
four bits belonging to number j and the high ones to number j + 16 (Q8_0: 32 signed bytes). Values
are d · (q − 8), d · q + m, d · (q − 16), d · q + m, d · q. Source: GGUF documentation.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from helexa.engine.quant.blocks.block_type import (
    BlockType,
    Groups,
    half,
    half_bytes,
    spread,
    to_half,
)
from helexa.engine.quant.blocks.fit import fit_affine, fit_symmetric, quotient

SIGN = 0x80
"""Turns a signed byte into an unsigned one that is larger by 128, and back."""


def nibbles(blocks: Tensor, start: int) -> Tensor:
    """Blocks → integers of four bits [..., 32]."""
    return spread(blocks[..., start:], (0, 4), 15).flatten(-2)


def fifth_bits(blocks: Tensor, start: int) -> Tensor:
    """Blocks → the bit above each of the 32 nibbles [..., 32], worth 16."""
    packed = blocks[..., start : start + 4].repeat_interleave(8, -1)
    bit = torch.arange(8, dtype=torch.uint8, device=blocks.device).repeat(4)
    return (packed >> bit).bitwise_and_(1).mul_(16)


def unpack_q4_0(blocks: Tensor) -> Groups:
    return Groups(nibbles(blocks, 2), half(blocks, 0), None)


def unpack_q4_1(blocks: Tensor) -> Groups:
    return Groups(nibbles(blocks, 4), half(blocks, 0), half(blocks, 2))


def unpack_q5_0(blocks: Tensor) -> Groups:
    return Groups(nibbles(blocks, 6) | fifth_bits(blocks, 2), half(blocks, 0), None)


def unpack_q5_1(blocks: Tensor) -> Groups:
    q = nibbles(blocks, 8) | fifth_bits(blocks, 4)
    return Groups(q, half(blocks, 0), half(blocks, 2))


def unpack_q8_0(blocks: Tensor) -> Groups:
    return Groups(blocks[..., 2:] ^ SIGN, half(blocks, 0), None)


def packed(q: Tensor, bits: int) -> Tensor:
    """Integers [..., 32] of 4 or 5 bits → the fifth bits, if any, and the nibbles, as bytes."""
    low, high = (q & 15).chunk(2, -1)
    parts = [low | (high << 4)]
    if bits == 5:
        weight = 1 << torch.arange(8, dtype=torch.uint8, device=q.device)
        fifth = (torch.unflatten(q >> 4, -1, (4, 8)) * weight).sum(-1, dtype=torch.uint8)
        parts.insert(0, fifth)
    return torch.cat(parts, -1)


def quantise_symmetric(x: Tensor, *, bits: int) -> Tensor:
    """Values [..., 32] → Q4_0 or Q5_0."""
    groups = x.reshape(-1, 32).T.contiguous()
    low = -(1 << (bits - 1))
    d = to_half(fit_symmetric(groups, low))
    q = quotient(groups, d).round_().clamp_(low, -low - 1).sub_(low).T.to(torch.uint8)
    return torch.unflatten(torch.cat([half_bytes(d), packed(q, bits)], -1), 0, x.shape[:-1])


def quantise_affine(x: Tensor, *, bits: int) -> Tensor:
    """Values [..., 32] → Q4_1 or Q5_1."""
    groups = x.reshape(-1, 32).T.contiguous()
    top = (1 << bits) - 1
    d, m = (to_half(part) for part in fit_affine(groups, top, signed=True))
    q = quotient(groups - m, d).round_().clamp_(0, top).T.to(torch.uint8)
    blocks = torch.cat([half_bytes(d), half_bytes(m), packed(q, bits)], -1)
    return torch.unflatten(blocks, 0, x.shape[:-1])


def quantise_q8_0(x: Tensor) -> Tensor:
    """Values [..., 32] → Q8_0: the largest becomes ±127."""
    d = to_half(x.abs().amax(-1) / 127)
    q = quotient(x, d.unsqueeze(-1)).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([half_bytes(d), q.view(torch.uint8)], -1)


LEGACY = (
    BlockType("Q4_0", 2, 32, 18, 32, 4, 8, unpack_q4_0, partial(quantise_symmetric, bits=4)),
    BlockType("Q4_1", 3, 32, 20, 32, 4, 0, unpack_q4_1, partial(quantise_affine, bits=4)),
    BlockType("Q5_0", 6, 32, 22, 32, 5, 16, unpack_q5_0, partial(quantise_symmetric, bits=5)),
    BlockType("Q5_1", 7, 32, 24, 32, 5, 0, unpack_q5_1, partial(quantise_affine, bits=5)),
    BlockType("Q8_0", 8, 32, 34, 32, 8, 128, unpack_q8_0, quantise_q8_0),
)
