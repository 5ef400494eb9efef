"""Plain matrices of a checkpoint, quantised while they are loaded."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from helexa.engine.quant.blocks.block_type import BlockType
from helexa.engine.quant.blocks.rows import quantised_rows
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import fast_weight, kept_weight
from helexa.engine.quant.dense import DenseFormat
from helexa.engine.quant.names import PLAIN, REPLACED, format_of, plain_name
from helexa.engine.quant.weight import Weight, WeightFormat

if TYPE_CHECKING:
    from helexa.engine.numerics import Numerics

NARROWER = MappingProxyType({"Q4_K": "Q4_0", "Q5_K": "Q5_0", "Q6_K": "Q8_0"})
"""What matrices get whose rows are no whole blocks of 256 numbers, but of 32."""


class Fallbacks:
    """How many matrices got another format than was asked for; several threads count."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def count(self, format: str) -> None:
        with self.lock:
            self.counts[format] += 1


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Quantises matrices to blocks of ``type``, a few rows at a time.

    Rows that are no whole blocks get a format of smaller blocks, or stay as ``plain`` keeps them.
    """

    type: BlockType
    plain: DenseFormat
    fallbacks: Fallbacks = field(default_factory=Fallbacks, compare=False)

    def make(self, parts: Sequence[Tensor]) -> Weight:
        """Quantise the matrices [N_i, K], stacked to one."""
        other = fallback(self.type, parts[0].shape[1])
        if other is not None:
            self.fallbacks.count(other)
        type = fitting(self.type, parts[0].shape[1])
        if type is None:
            return self.plain.make(parts)
        rows = quantised_rows(type, parts)
        return fast_weight(rows, self.plain) or kept_weight(rows, self.plain)

    def warn(self) -> None:
        """Say once how many matrices got another format."""
        counts = self.fallbacks.counts
        if counts:
            warnings.warn(told_fallbacks(self.type, counts), stacklevel=3)


def told_fallbacks(type: BlockType, counts: Mapping[str, int]) -> str:
    """The sentence on how many matrices got which other formats than ``type``."""
    told = " and ".join(f"{n} are {format}" for format, n in sorted(counts.items()))
    return (
        f"{sum(counts.values())} matrices have no rows of whole {type.name} blocks "
        f"({type.elements} numbers): {told}"
    )


def fallback(type: BlockType, columns: int) -> str | None:
    """What a matrix is said to get whose rows are no whole blocks; None if they are."""
    fits = fitting(type, columns)
    return None if fits is type else fits.name if fits is not None else "plain"


def fitting(type: BlockType, columns: int) -> BlockType | None:
    """The format for rows of so many numbers when ``type`` is asked for; None: plain."""
    if columns % type.elements == 0:
        return type
    smaller = BLOCK_TYPES[NARROWER.get(type.name, type.name)]
    return smaller if columns % smaller.elements == 0 else None


def linear_format(quant: str | None, plain: DenseFormat) -> WeightFormat:
    """The format of linear layers that ``quant`` names; none is ``plain``.

    Raises PreflightError of kind `quant_not_found`. Warns of a name that stands for another format.
    """
    format = format_of(quant)
    if format is None:
        return plain
    if format in PLAIN:
        dtype = getattr(torch, PLAIN[format])
        return DenseFormat(
            dtype,
            plain.device,
            plain.packed,
            plain.kernels,
            workspace=plain.workspace,
            compiler=plain.compiler,
            rounded=True,
            bfloat16=plain.bfloat16,
            large_pages=plain.large_pages,
        )
    if plain_name(quant or "") in REPLACED:
        warnings.warn(f"weights are not quantised to {quant}; they get {format}", stacklevel=3)
    return BlockFormat(BLOCK_TYPES[format], plain)


def for_logits(numerics: Numerics) -> Numerics:
    """The same for an output layer, whose results keep float32.

    Rounded to bfloat16, many a best token and its runner-up would be the same.
    """
    return with_plain(numerics, lambda plain: replace(plain, bfloat16=False, output=True))


def for_experts(numerics: Numerics, count: int) -> Numerics:
    """The same for one of so many experts, which take the place of one large matrix."""
    return with_plain(numerics, lambda plain: replace(plain, together=count))


def with_plain(numerics: Numerics, change: Callable[[DenseFormat], DenseFormat]) -> Numerics:
    """The same with another plain format, wherever it is asked for one."""
    plain, linear = change(numerics.plain), numerics.linear
    if isinstance(linear, DenseFormat):
        linear = plain if linear is numerics.plain else change(linear)
    elif isinstance(linear, BlockFormat):
        linear = replace(linear, plain=change(linear.plain))
    return replace(numerics, plain=plain, linear=linear)
