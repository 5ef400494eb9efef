"""Matrices that a checkpoint, a GGUF file or a folder, stores in GGUF's block formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helexa.engine.quant.blocks.rows import stored_rows
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight, fast_weight
from helexa.engine.quant.dense import DenseFormat
from helexa.engine.quant.stack import stack

if TYPE_CHECKING:
    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight


class GGUFBlocks:
    """All of BLOCK_TYPES; a place's kind is the name of its type."""

    def kind(self, place: Weights) -> str | None:
        """The type of the matrix at this place, if it is one of BLOCK_TYPES."""
        stored = place.dtype_of("weight") if "weight" in place else None
        return stored if stored in BLOCK_TYPES else None

    def load(
        self, places: Sequence[Weights], rows: Sequence[int], inputs: int, numerics: Numerics
    ) -> Weight:
        """Lay the matrices out for a fast operator; without one they stay where they are."""
        type = BLOCK_TYPES[places[0].dtype_of("weight")]
        shapes = zip(places, rows, strict=True)
        parts = [place.stored("weight", (n, inputs)) for place, n in shapes]
        dense = numerics.linear if isinstance(numerics.linear, DenseFormat) else numerics.plain
        fast = fast_weight(stored_rows(type, parts, inputs), dense)
        if fast is not None:
            return fast
        scratch = numerics.plain.scratch
        return stack([BlockWeight(type, part.to(numerics.device), scratch) for part in parts])
