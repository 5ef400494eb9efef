"""Products with matrices of small integers, as loops that a compiler turns into vector code.

The layout: blocks of R = 16 · P rows, a block transposed, so that neighbouring rows are neighbours
in memory. A 32-bit word holds P integers of one column: row r of a block has lane r mod 16 and
place ⌊r / 16⌋, the lowest bits being place 0. Each is masked out where it is and never shifted but
at the very top; what it is too large by, a power of two, is divided out of the sums.

Everything here is written for `kernels.compiled`, and exact but for the rounding of sums; run
operator by operator it gives the same, slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LANES = 16
WORD_BITS = 32


class Factors(NamedTuple):
    """What groups of integers are multiplied by, or what is added to them: coarse · fine.

    ``coarse`` [B, S, P, 16] float16 or float32; ``fine`` [B, G, P, 16] int8 or uint8, G a multiple
    of S, None: 1, and G is S.
    """

    coarse: Tensor
    fine: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.coarse.nbytes + (0 if self.fine is None else self.fine.nbytes)

    def values(self) -> Tensor:
        """[B, G, …] float32."""
        coarse = self.coarse.float()
        if self.fine is None:
            return coarse
        blocks, _, *rest = self.fine.shape
        parts = self.fine.float().view(blocks, coarse.shape[1], -1, *rest)
        return (parts * coarse[:, :, None]).view(self.fine.shape)

    def place(self, index: int) -> Factors:
        """Those of one place: [B, S, 16] and [B, G, 16]."""
        fine = None if self.fine is None else self.fine[:, :, index]
        return Factors(self.coarse[:, :, index], fine)

    def weighted(self, sums: Tensor) -> Tensor:
        """Σ over groups: sums [B, G, P, 16], or what broadcasts to that, → [B, P, 16]."""
        coarse = self.coarse.float()
        if self.fine is None:
            return (sums * coarse).sum(1)
        weighted = sums * self.fine.float()
        blocks, most, *rest = coarse.shape
        return (weighted.view(blocks, most, -1, *rest).sum(2) * coarse).sum(1)


@dataclass(frozen=True, slots=True)
class Form:
    """Integers of ``bits`` bits, ``zero`` too large; ``group`` columns share a scale.

    ``fine``: factors have a fine part; ``affine``: there are offsets.
    """

    bits: int
    group: int
    zero: int
    fine: bool
    affine: bool

    @property
    def places(self) -> int:
        """P."""
        return WORD_BITS // self.bits

    @property
    def rows(self) -> int:
        """R."""
        return LANES * self.places

    def masked(self, words: Tensor, place: int) -> Tensor:
        """The integers of a place, int32, times 1 / its unit."""
        shift, mask = place * self.bits, (1 << self.bits) - 1
        if shift + self.bits == WORD_BITS:  # the sign is one of the bits
            return (words >> shift) & mask
        return words & (mask << shift)

    def units(self) -> Tensor:
        """What `masked` integers are to be multiplied by, [P, 1] float32."""
        shifts = (place * self.bits for place in range(self.places))
        units = [1.0 if s + self.bits == WORD_BITS else 0.5**s for s in shifts]
        return torch.tensor(units).view(-1, 1)

    def lanes(self, tensors: Sequence[Tensor]) -> Lanes:
        """The matrix whose `Lanes.tensors` these are."""
        words, *rest = tensors
        size = 2 if self.fine else 1
        pairs = [Factors(*rest[:size]), *([Factors(*rest[size:])] if self.affine else [])]
        return Lanes(words, pairs[0], pairs[1] if self.affine else None)


class Lanes(NamedTuple):
    """A matrix [B · R, K] in this layout: ``words`` [B, K, 16] int32."""

    words: Tensor
    scale: Factors
    offset: Factors | None

    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, in one order."""
        found = [self.words, *self.scale, *(self.offset or ())]
        return tuple(tensor for tensor in found if tensor is not None)

    def blocks(self, start: int, stop: int) -> Lanes:
        """Blocks start … stop, as a view."""

        def cut(factors: Factors) -> Factors:
            fine = None if factors.fine is None else factors.fine[start:stop]
            return Factors(factors.coarse[start:stop], fine)

        offset = None if self.offset is None else cut(self.offset)
        return Lanes(self.words[start:stop], cut(self.scale), offset)

    def wide(self) -> Lanes:
        """With coarse factors in float32."""

        def widened(factors: Factors) -> Factors:
            return Factors(factors.coarse.float(), factors.fine)

        offset = None if self.offset is None else widened(self.offset)
        return Lanes(self.words, widened(self.scale), offset)


def pack_words(q: Tensor, form: Form) -> Tensor:
    """Integers [B · R, K] uint8 → words [B, K, 16] int32."""
    blocks, columns = len(q) // form.rows, q.shape[1]
    parts = q.view(blocks, form.places, LANES, columns).transpose(2, 3)  # [B, P, K, 16]
    words = torch.zeros(blocks, columns, LANES, dtype=torch.int32)
    for place in range(form.places):
        words |= parts[:, place].to(torch.int32) << (place * form.bits)
    return words


def row_product(form: Form, x: Tensor, units: Tensor, *tensors: Tensor) -> Tensor:
    """x @ Wᵀ for one row: x [1, K] float32, `Form.units`, `Lanes.tensors` → [1, B · R] float32.

    All places are summed in one loop, and what follows is one loop, too: threads that share a loop
    wait for each other at its end.
    """
    words, scale, offset = form.lanes(tensors)
    blocks, columns, _ = words.shape
    groups = columns // form.group
    column = x.view(columns, 1)
    parts = []
    for place in range(form.places):
        products = form.masked(words, place).float() * column
        parts.append(products.view(blocks, groups, form.group, LANES).sum(2))
    totals = x.view(groups, form.group).sum(-1).view(1, groups, 1, 1)
    sums = torch.stack(parts, 2) * units
    if form.zero:
        sums = sums - form.zero * totals
    out = scale.weighted(sums)
    if offset is not None:
        out = out + offset.weighted(totals)
    return out.view(1, -1)


def expanded(form: Form, lanes: Lanes, place: int) -> Tensor:
    """The rows of one place: → [B, K, 16] float32, each product and sum rounded by itself."""
    words, scale, offset = lanes
    q = (words >> (place * form.bits)) & ((1 << form.bits) - 1)
    groups = (q - form.zero).float().view(len(words), -1, form.group, LANES)
    out = groups * scale.place(place).values()[:, :, None]
    if offset is not None:
        out = out + offset.place(place).values()[:, :, None]
    return out.flatten(1, 2)


def tile(form: Form, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
    """The matrix transposed: `Lanes.tensors`, widened → [K, B · R] in ``dtype``.

    The loops of a compiler take float16 and bfloat16 one by one where they meet.
    """
    lanes = form.lanes(tensors)
    parts = [expanded(form, lanes, place).to(dtype) for place in range(form.places)]
    return torch.stack([part.transpose(0, 1) for part in parts], 2).flatten(1)
