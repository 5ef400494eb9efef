"""What a block format is: its sizes, its integers and scales, and how numbers become blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_HALF = 2.0**-24
"""The smallest positive number that float16 holds."""


class Groups(NamedTuple):
    """Blocks taken apart: integers, and what each group of them shares.

    ``q`` [..., elements] uint8, ``scale`` [..., groups] float32, ``offset`` the same or None; with
    the format's constant ``zero``, a value is scale · (q − zero) + offset.
    """

    q: Tensor
    scale: Tensor
    offset: Tensor | None


class Levels(NamedTuple):
    """The scales and offsets of blocks as they are stored: products of a common and a small factor.

    ``scale`` and ``low`` [..., 1] float32, as float16 holds them; ``scales`` and ``lows``
    [..., groups] int8 or uint8. A group's scale is scale · scales, its offset −low · lows.
    """

    scale: Tensor
    scales: Tensor
    low: Tensor | None = None
    lows: Tensor | None = None

    def groups(self, q: Tensor) -> Groups:
        """With the integers [..., elements] that they belong to."""
        offset = None
        if self.low is not None and self.lows is not None:
            offset = -(self.low * self.lows)
        return Groups(q, self.scale * self.scales, offset)


@dataclass(frozen=True, slots=True)
class BlockType:
    """A format that stores ``elements`` numbers in ``nbytes`` bytes.

    ``name`` and ``ggml_id`` are what GGUF files call it. Its integers have ``bits`` bits, and
    ``group`` of them share a scale. ``unpack`` takes blocks [..., nbytes] uint8 apart; ``quantise``
    makes them of values [..., elements] float32, elementwise alike for any number of threads, and
    is None where that is not offered. ``levels``: the scales of blocks with more than one group.
    Source of all layouts: the GGUF and ggml documentation.
    """

    name: str
    ggml_id: int
    elements: int
    nbytes: int
    group: int
    bits: int
    zero: int
    unpack: Callable[[Tensor], Groups] = field(repr=False, compare=False)
    quantise: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)
    levels: Callable[[Tensor], Levels] | None = field(default=None, repr=False, compare=False)

    def dequantise(self, blocks: Tensor) -> Tensor:
        """Blocks [..., nbytes] uint8 → their numbers [..., elements] float32, exact."""
        return values(self.unpack(blocks), self.zero)

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` numbers, which must be whole blocks."""
        return columns // self.elements * self.nbytes

    def matrix(self, rows: Tensor) -> Tensor:
        """Rows of blocks [N, bytes] uint8 → [N, K] float32."""
        return self.dequantise(rows.view(len(rows), -1, self.nbytes)).flatten(1)

    def grouped(self, rows: Tensor) -> Groups:
        """Rows of blocks [N, bytes] → q [N, K], scale and offset [N, K / group]."""
        parts = self.unpack(rows.view(len(rows), -1, self.nbytes))
        offset = None if parts.offset is None else parts.offset.flatten(1)
        return Groups(parts.q.flatten(1), parts.scale.flatten(1), offset)

    def rows(self, matrix: Tensor) -> Tensor:
        """A matrix [N, K] float32 → rows of blocks [N, bytes]. Raises TypeError without `quantise`.

        K must be a multiple of ``elements``.
        """
        if self.quantise is None:
            raise TypeError(f"{self.name} is only read")
        return self.quantise(matrix.view(len(matrix), -1, self.elements)).flatten(1)


def values(parts: Groups, zero: int) -> Tensor:
    """The numbers [..., elements] float32; each product and sum is rounded by itself."""
    out = parts.q.float()
    if zero:
        out -= zero
    groups = out.view(*parts.scale.shape, -1)
    groups *= parts.scale.unsqueeze(-1)
    if parts.offset is not None:
        groups += parts.offset.unsqueeze(-1)
    return out


def half(blocks: Tensor, start: int) -> Tensor:
    """The float16 number at byte ``start`` of each block: [..., nbytes] → [..., 1] float32."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16).float()


def half_bytes(numbers: Tensor) -> Tensor:
    """Numbers [...], rounded to float16, as bytes [..., 2]."""
    return numbers.half().unsqueeze(-1).view(torch.uint8)


def to_half(numbers: Tensor) -> Tensor:
    """Numbers as float16 holds them, in float32: what `half` will read, and never infinite."""
    return numbers.clamp(-65504, 65504).half().float()


def unit(largest: Tensor, steps: int) -> Tensor:
    """What scales up to ``largest`` are to be whole multiples of, at most ``steps`` times it.

    As float16 holds it, and not 0 where that is too coarse: fewer steps are better than none.
    """
    return to_half(largest / steps).clamp_min(LEAST_HALF)


def spread(packed: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """Several small integers of each byte: [..., n] uint8 → [..., len(shifts), n]."""
    return torch.stack([packed >> s if s else packed for s in shifts], -2).bitwise_and_(mask)
