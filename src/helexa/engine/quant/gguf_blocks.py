"""Matrices that a checkpoint, a GGUF file or a folder, stores in GGUF's block formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from helexa.engine.quant.blocks.rows import stored_rows
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.quant.blocks.weight import BlockWeight, fast_weight
from helexa.engine.quant.dense import DenseFormat, fill
from helexa.engine.quant.on_device import for_device
from helexa.engine.quant.stack import stack

if TYPE_CHECKING:
    from torch import Tensor

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
        if numerics.device.type != "cpu":
            parts = [on_device(parts, numerics.device)]
        kept = [BlockWeight(type, part, numerics.plain.scratch) for part in parts]
        return stack([for_device(weight, dense) for weight in kept])


def on_device(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Matrices [N_i, bytes] one below the other, each copied straight to its place."""
    out = torch.empty((sum(map(len, parts)), parts[0].shape[1]), dtype=torch.uint8, device=device)
    fill(out, parts)
    return out
