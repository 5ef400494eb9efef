"""Random numbers that are a function of a seed and an index, so that a draw can be repeated.

Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
Plain integers: the same on every device, and nothing to save when a sequence is set aside.
"""

from __future__ import annotations

from typing import Final

Words = tuple[int, int, int, int]

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = 0xFFFFFFFF


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
