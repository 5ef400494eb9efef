"""Matrices as checkpoints store them: plain, or in formats that need fewer bits."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from helexa.engine.quant.awq import awq_groups
from helexa.engine.quant.compressed import CompressedFormat
from helexa.engine.quant.fp8 import Fp8Format
from helexa.engine.quant.gguf_blocks import GGUFBlocks
from helexa.engine.quant.gptq import gptq_groups
from helexa.engine.quant.qweight import QWeightFormat
from helexa.engine.quant.stack import stack

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight


class StoredFormat(Protocol):
    """A format that a checkpoint may keep a matrix in, and that it keeps in memory."""

    def kind(self, place: Weights) -> Hashable | None:
        """None if the matrix at this place is not stored so.

        Else what it has in common with those that can become one weight with it.
        """
        ...

    def load(
        self, places: Sequence[Weights], rows: Sequence[int], inputs: int, numerics: Numerics
    ) -> Weight:
        """Take the matrices [rows_i, inputs], all of one kind, as one. Raises CheckpointError."""
        ...


FORMATS: tuple[StoredFormat, ...] = (
    GGUFBlocks(),
    QWeightFormat("awq", awq_groups),
    CompressedFormat(),
    Fp8Format(),
    QWeightFormat("gptq", gptq_groups),
)
"""All but plain ones. The first that recognises a place has it."""


def load_matrix(
    places: Sequence[Weights], rows: Sequence[int], inputs: int, numerics: Numerics
) -> Weight:
    """Take the matrices [rows_i, inputs] of these places, stacked to one.

    Plain ones get the format that linears are to have; others stay as they are stored.
    """
    found = [(recognised(place), place, n) for place, n in zip(places, rows, strict=True)]
    weights: list[Weight] = []
    for key, group in groupby(found, key=lambda item: item[0]):
        members = list(group)
        at, sizes = [place for _, place, _ in members], [n for _, _, n in members]
        if key is None:
            parts = [place.take("weight", (n, inputs)) for place, n in zip(at, sizes, strict=True)]
            weights.append(numerics.linear.make(parts))
        else:
            weights.append(FORMATS[key[0]].load(at, sizes, inputs, numerics))
    return stack(weights)


def recognised(place: Weights) -> tuple[int, Hashable] | None:
    """Which of FORMATS a matrix is stored in, and its kind; None for a plain one."""
    for index, format in enumerate(FORMATS):
        if (kind := format.kind(place)) is not None:
            return index, kind
    return None


def is_stored(place: Weights) -> bool:
    """Whether there is a matrix at a place, in any format."""
    return "weight" in place or recognised(place) is not None
