"""Widening of float8 e4m3 numbers on a CPU, for which torch has no fast conversion.

Source of the format: arXiv:2209.05433 §3: 1 sign, 4 exponent bits (bias 7), 3 of the mantissa; no
infinities, and all of exponent and mantissa set is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 2**20
"""Numbers that are looked at at once."""
NAN = 0x7F
KEPT = ~(1 << 14)
"""All bits but the one that a copy of the sign falls on."""
REBIASED = 256.0
"""2^(15 − 7), the two formats' biases: what makes numbers of shifted ones."""


def shifted(tensor: Tensor) -> Tensor:
    """e4m3 numbers without NaN → the same numbers · 2⁻⁸ in float16, exactly.

    Shifted to where float16 has exponent and mantissa, the bits mean that, also below the smallest
    normal number.
    """
    bits = tensor.view(torch.int8).to(torch.int16)  # with the sign in all upper bits
    return bits.bitwise_left_shift_(7).bitwise_and_(KEPT).view(torch.float16)


def has_nan(tensor: Tensor) -> bool:
    """Whether any of e4m3 numbers is none."""
    pieces = torch.split(tensor.view(torch.uint8).reshape(-1), PIECE)
    return any(bool(((piece & NAN) == NAN).any()) for piece in pieces)
