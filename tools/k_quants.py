"""Q2_K and Q3_K, which nothing here writes otherwise: rounded between the extremes of each group.

A block of 256 numbers is 16 groups of 16. The two bits of number 128·h + 32·s + i are those at 2·s
of byte 32·h + i.

- Q2_K: scales 16 bytes (of each group 4 bits of scale, 4 of minimum), numbers 64 bytes, d and dmin
  float16; a weight is d·scale·q − dmin·minimum.
- Q3_K: third bits 32 bytes (bit 4·h + s of byte i), the others 64 bytes, scales 12 bytes (less 32,
  six bits each), d float16; a weight is d·scale·(q − 4).

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (`block_q2_K`, `block_q3_K`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def q2_k(matrix: Floats) -> Bytes:
    """The blocks of a matrix [N, K], K a multiple of 256: → [N, K · 84 / 256]."""
    groups = matrix.reshape(-1, 16, 16)
    least = -groups.min(-1).clip(max=0)
    step = (groups.max(-1).clip(min=0) + least) / 3
    d, dmin = unit(step, 15), unit(least, 15)
    scale, minimum = np.rint(step / d), np.rint(least / dmin)
    low, each = (dmin * minimum)[..., None], (d * scale)[..., None]
    q = np.rint((groups + low) / np.where(each, each, 1)).clip(0, 3)
    both = scale.astype(np.uint8) | minimum.astype(np.uint8) << 4
    return joined(len(matrix), both, pairs(q.astype(np.uint8)), halves(d), halves(dmin))


def q3_k(matrix: Floats) -> Bytes:
    """The blocks of a matrix [N, K], K a multiple of 256: → [N, K · 110 / 256].

    The number furthest from 0 in a group becomes −4 steps, which may be negative ones.
    """
    groups = matrix.reshape(-1, 16, 16)
    furthest = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)[..., 0]
    step = furthest / -4
    d = unit(np.abs(step), 31)
    scale = np.rint(step / d)
    each = (d * scale)[..., None]
    q = (np.rint(groups / np.where(each, each, 1)).clip(-4, 3) + 4).astype(np.uint8)
    third = np.bitwise_or.reduce(
        (q >> 2).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None], 1
    )
    six = (scale + 32).astype(np.uint8)
    nibbles = six[:, :8] & 15 | six[:, 8:] << 4
    upper = (six >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    scales = np.concatenate([nibbles, np.bitwise_or.reduce(upper, 1)], 1)
    return joined(len(matrix), third, pairs(q & 3), scales, halves(d))


def unit(values: Floats, most: int) -> Floats:
    """What ``most`` of is the largest of each row, as float16 holds it; [B, 1]."""
    found: Floats = (values.max(-1, keepdims=True) / most).astype(np.float16).astype(np.float32)
    return np.where(found, found, 1)


def pairs(q: Bytes) -> Bytes:
    """Numbers below 4 [B, 16, 16], two bits each: → [B, 64]."""
    shifted = q.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    found: Bytes = np.bitwise_or.reduce(shifted, 2).reshape(-1, 64)
    return found


def halves(values: Floats) -> Bytes:
    """float16 numbers [B, 1] as bytes [B, 2]."""
    return values.astype("<f2").view(np.uint8)


def joined(rows: int, *parts: Bytes) -> Bytes:
    """Parts of blocks [B, n_i] put together, B / rows blocks in a row."""
    return np.concatenate(parts, 1).reshape(rows, -1)
