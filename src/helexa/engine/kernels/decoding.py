"""Attention of sequences with one new token each, over pages of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.attention import attention_definition

if TYPE_CHECKING:
    from torch import Tensor

LEAST_KEYS = 256
"""Fewer keys than this are no share of a split."""
MOST_SPLITS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Where the keys and values of S sequences lie, the new token's included.

    Token j of sequence s is in slot ``tables[s, j // size] · size + j % size``, for j below
    ``lengths[s]``. tables [S, M] and lengths [S] are int32; ``size`` is a page's tokens. No
    sequence is longer than M · size, which is what work is divided by.
    """

    tables: Tensor
    lengths: Tensor
    size: int

    @property
    def most_keys(self) -> int:
        """What a table has room for."""
        return self.tables.shape[1] * self.size


def decode_definition(q: Tensor, kv: Tensor, pages: Pages, gate: Tensor | None = None) -> Tensor:
    """One token of each of S sequences: q [S, H, D] → [S, H, D] in q's dtype.

    kv [2, G, slots, D] has keys and values; ``gate`` [S, H, D] multiplies the result by its
    sigmoid. A sequence of length 0 gives zeros.
    """
    out = torch.zeros_like(q)
    for s, length in enumerate(pages.lengths.tolist()):
        if length:
            j = torch.arange(length, device=q.device)
            slots = pages.tables[s].long()[j // pages.size] * pages.size + j % pages.size
            out[s] = attention_definition(q[s : s + 1], kv[:, :, slots])[0]
    return out if gate is None else out * gate.float().sigmoid().to(out.dtype)


def splits(programs: int, keys: int, processors: int) -> int:
    """Among how many programs each one's ``keys`` are split, a power of two.

    As many as give each processor two, if the shares do not become too small for it.
    """
    count = 1
    while programs * count < 2 * processors and keys // count > LEAST_KEYS and count < MOST_SPLITS:
        count *= 2
    return count
