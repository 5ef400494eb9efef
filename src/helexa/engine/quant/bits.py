"""Small integers packed into 32-bit words."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

WORD = 32


def unpack(words: Tensor, bits: int, count: int | None = None) -> Tensor:
    """The numbers in rows of words: [..., W] int32 → [..., count] uint8, all there are by default.

    A row is one stream of bits, the lowest of its first word first; number i begins at bit
    i · ``bits`` and may go on in the next word. 1 ≤ bits ≤ 8.
    """
    most = words.shape[-1] * WORD // bits
    if bits in (4, 8) and sys.byteorder == "little":
        flat = words.reshape(-1).contiguous().view(torch.uint8)
        found = flat.view(*words.shape[:-1], words.shape[-1] * WORD // 8)
        if bits == 4:
            found = torch.stack((found & 15, found >> 4), -1).flatten(-2)
        return found[..., :count]
    first = torch.arange(most if count is None else count, device=words.device) * bits
    word, shift = first // WORD, first % WORD
    wide = words.long() & 0xFFFFFFFF
    wide = torch.cat((wide, wide.new_zeros(*wide.shape[:-1], 1)), -1)
    pair = wide[..., word] | wide[..., word + 1] << WORD
    return (pair >> shift & (1 << bits) - 1).to(torch.uint8)
