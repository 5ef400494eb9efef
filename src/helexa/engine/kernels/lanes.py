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

from helexa.engine.kernels.few_rows import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LANES = 16
PLAN = Plan(sums=20)
"""One for each row and place: more than so many do not stay in 32 registers. Four rows of 4 bits
are faster in two loops than in one."""
WORD_BITS = 32
HALF_BITS = 0x8FFFE000 - 2**32
"""The sign and the fifteen other bits of a float16 number, three places below the top."""
HALF_UNIT = 2.0**112
LIFT = 10
"""Binary places by which float16 numbers below 1 are lifted: none of them is subnormal then."""
LIFTABLE = 63.0
"""Up to this they stay finite."""


class Factors(NamedTuple):
    """What groups of integers are multiplied by, or what is added to them: coarse · fine.

    ``coarse`` [B, S, ⌈P / 2⌉, 16] int32, two float16 numbers a word (see `joined_halves`); ``fine``
    [B, G, P, 16] int8 or uint8, G a multiple of S, None: 1, and G is S.
    """

    coarse: Tensor
    fine: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.coarse.nbytes + (0 if self.fine is None else self.fine.nbytes)

    def place(self, index: int, unit: float = HALF_UNIT) -> Tensor:
        """Those of one place, to be multiplied with [B, S, G / S, group, 16]: float32."""
        coarse = half_of_word(self.coarse[:, :, index // 2], index % 2, unit)[:, :, None, None]
        if self.fine is None:
            return coarse
        blocks, most, *_, lanes = coarse.shape
        return self.fine[:, :, index].float().view(blocks, most, -1, 1, lanes) * coarse

    def blocks(self, start: int, stop: int) -> Factors:
        """Those of blocks start … stop, as a view."""
        fine = None if self.fine is None else self.fine[start:stop]
        return Factors(self.coarse[start:stop], fine)


def joined_halves(halves: Tensor) -> Tensor:
    """Two float16 numbers in a word: [B, S, P, 16] → [B, S, ⌈P / 2⌉, 16] int32, the first lower.

    Whole words are loaded without a mask, so that a compiler takes what they hold out of its
    innermost loop.
    """
    bits = halves.view(torch.int16).int() & 0xFFFF
    if bits.shape[2] % 2:
        bits = torch.cat((bits, torch.zeros_like(bits[:, :, :1])), 2)
    return bits[:, :, 0::2] | (bits[:, :, 1::2] << 16)


def half_of_word(words: Tensor, index: int, unit: float = HALF_UNIT) -> Tensor:
    """The lower (0) or the upper (1) float16 number of each word, float32; no infinities, no NaN.

    Its exponent is put where float32 has its own, and what that makes it too small by multiplied. A
    subnormal one is then one of float32, too, which CPUs may be told to take for 0: see `lifted`.
    """
    upper = words if index else words << 16
    return ((upper >> 3) & HALF_BITS).view(torch.float32) * unit


def lifted(factors: Sequence[Factors]) -> bool:
    """Multiply coarse factors by 2 to the power of `LIFT` where they lie, if they are small enough.

    So they almost always are: whether it was done is the `Form`'s to know.
    """
    halves = [factor.coarse.view(torch.float16) for factor in factors]
    if any(part.abs().amax() > LIFTABLE for part in halves if part.numel()):
        return False
    for part in halves:
        part.mul_(2.0**LIFT)
    return True


@dataclass(frozen=True, slots=True)
class Form:
    """Integers of ``bits`` bits, ``zero`` too large; ``group`` columns share a scale.

    ``fine``: factors have a fine part; ``affine``: there are offsets; ``lifted``: coarse factors
    are larger than they are meant, see there.
    """

    bits: int
    group: int
    zero: int
    fine: bool
    affine: bool
    lifted: bool = False

    @property
    def half_unit(self) -> float:
        """What `half_of_word` multiplies by."""
        return HALF_UNIT * 0.5**LIFT if self.lifted else HALF_UNIT

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

    def unit(self, place: int) -> float:
        """What `masked` integers of a place are to be multiplied by."""
        shift = place * self.bits
        return 1.0 if shift + self.bits == WORD_BITS else 0.5**shift

    def values(self, lanes: Lanes, place: int) -> Tensor:
        """The rows of one place, but for rounding: → [B, S, G / S, group, 16] float32.

        One multiplication and one addition for each, all else is the same for a group.
        """
        words, scale, offset = lanes
        coarse = scale.place(place, self.half_unit)
        low = -self.zero * coarse if offset is None else offset.place(place, self.half_unit)
        groups = words.shape[1] // self.group // coarse.shape[1]
        shape = (len(words), coarse.shape[1], groups, self.group, LANES)
        q = self.masked(words, place).float().view(shape)
        return q * (coarse * self.unit(place)) + low

    def lanes(self, tensors: Sequence[Tensor]) -> Lanes:
        """The matrix whose `Lanes.tensors` these are."""
        words, *rest = tensors
        size = 2 if self.fine else 1
        offset = Factors(*rest[size:]) if self.affine else None
        return Lanes(words, Factors(*rest[:size]), offset)


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
        offset = None if self.offset is None else self.offset.blocks(start, stop)
        return Lanes(self.words[start:stop], self.scale.blocks(start, stop), offset)


def pack_words(q: Tensor, form: Form) -> Tensor:
    """Integers [B · R, K] uint8 → words [B, K, 16] int32."""
    blocks, columns = len(q) // form.rows, q.shape[1]
    parts = q.view(blocks, form.places, LANES, columns).transpose(2, 3)  # [B, P, K, 16]
    words = torch.zeros(blocks, columns, LANES, dtype=torch.int32)
    for place in range(form.places):
        words |= parts[:, place].to(torch.int32) << (place * form.bits)
    return words


def row_product(form: Form, x: Tensor, *tensors: Tensor) -> Tensor:
    """x @ Wᵀ for few rows: x [T, K] float32, `Lanes.tensors` → [T, B · R] float32.

    One loop over the words, each read once, whatever T; no sums of groups are kept. Each integer is
    made a number of the matrix, as one more instruction is cheaper than a second loop.
    """
    lanes = form.lanes(tensors)
    sums = []
    for place in range(form.places):
        values = form.values(lanes, place)
        columns = x.view(len(x), *values.shape[1:4], 1)
        sums.append([(values * column).sum((1, 2, 3)) for column in columns])
    rows = [torch.stack([place[t] for place in sums], 1).flatten() for t in range(len(x))]
    return torch.stack(rows)


def expanded(form: Form, lanes: Lanes, place: int) -> Tensor:
    """The rows of one place: → [B, K, 16] float32, each product and sum rounded by itself."""
    words, scale, offset = lanes
    q = (words >> (place * form.bits)) & ((1 << form.bits) - 1)
    factor = scale.place(place, form.half_unit)
    blocks, most, *_ = factor.shape
    out = (q - form.zero).float().view(blocks, most, -1, form.group, LANES) * factor
    if offset is not None:
        out = out + offset.place(place, form.half_unit)
    return out.flatten(1, 3)


def tile(form: Form, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
    """The matrix transposed: `Lanes.tensors` → [K, B · R] in ``dtype``."""
    lanes = form.lanes(tensors)
    parts = [expanded(form, lanes, place).to(dtype) for place in range(form.places)]
    return torch.stack([part.transpose(0, 1) for part in parts], 2).flatten(1)
