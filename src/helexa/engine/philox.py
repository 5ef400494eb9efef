"""Random numbers that are a function of a seed and an index, so that a draw can be repeated.

Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
Plain integers: the same on every device, and nothing to save when a sequence is set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = tuple[int, int, int, int]

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = 0xFFFFFFFF
_MOST: Final = 2**64 - 1
STRETCH: Final = 64
"""Numbers that are made at a time."""
_KEPT: Final = 1024  # stretches of 2 KiB: one for each sequence of the largest batches


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Four 32-bit words of noise for a 128-bit counter under a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        even, odd = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (odd >> 32) ^ c1 ^ k0, odd & _MASK, (even >> 32) ^ c3 ^ k1, even & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, index: int) -> float:
    """Number ``index`` of the stream ``seed``: uniform in [0, 1), all 53 bits of a double.

    ``seed`` and ``index`` are from 0 to 2^64 - 1.
    """
    counter = (index & _MASK, index >> 32, 0, 0)
    high, low, _, _ = philox4x32(counter, (seed & _MASK, seed >> 32))
    return ((high >> 5) * 2**26 + (low >> 6)) * 2.0**-53


def uniforms(places: Sequence[tuple[int, int]]) -> list[float]:
    """`uniform` of each pair of a seed and an index.

    A sequence asks for one number after the other, and many take hardly longer than one: they are
    made a stretch at a time. Stretches of different seeds end at different indices, so that rows
    which began together do not all need theirs in the same step.
    """
    found = []
    for seed, index in places:
        number, at = divmod(index + seed % STRETCH, STRETCH)
        found.append(_stretch(seed, number)[at])
    return found


@lru_cache(_KEPT)
def _stretch(seed: int, number: int) -> tuple[float, ...]:
    """Some numbers of the stream ``seed``, stretch ``number`` of it."""
    first = number * STRETCH - seed % STRETCH
    indices = np.array([(first + i) & _MOST for i in range(STRETCH)], dtype=np.uint64)
    high, low = _first_words(indices, np.full(STRETCH, seed, dtype=np.uint64))
    return tuple((((high >> 5) * 2**26 + (low >> 6)) * 2.0**-53).tolist())


def _first_words(
    counters: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first two words of `philox4x32`, element by element."""
    mask, half = np.uint64(_MASK), np.uint64(32)
    rounds = np.arange(_ROUNDS, dtype=np.uint64)[:, None]
    k0 = ((keys & mask) + rounds * np.uint64(_KEY_STEPS[0])) & mask
    k1 = ((keys >> half) + rounds * np.uint64(_KEY_STEPS[1])) & mask
    first, second = (np.uint64(factor) for factor in _MULTIPLIERS)
    c0, c1 = counters & mask, counters >> half
    c2 = c3 = np.zeros_like(counters)
    for i in range(_ROUNDS):
        even, odd = c0 * first, c2 * second
        c0, c1, c2, c3 = (
            (odd >> half) ^ c1 ^ k0[i],
            odd & mask,
            (even >> half) ^ c3 ^ k1[i],
            even & mask,
        )
    return c0, c1
