"""What AWQ's and GPTQ's checkpoints have in common: integers in groups, under the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from helexa.engine.quant.groups import Groups, group_weight

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from helexa.engine.checkpoint.weights import Weights
    from helexa.engine.numerics import Numerics
    from helexa.engine.quant.weight import Weight
    from helexa.engine.quantization_config import QuantizationConfig


class Reader(Protocol):
    """How a method stores a matrix."""

    def __call__(
        self, place: Weights, rows: int, inputs: int, config: QuantizationConfig
    ) -> Groups:
        """The matrix [rows, inputs] as stored at a place. Raises CheckpointError."""


@dataclass(frozen=True, slots=True)
class QWeightFormat:
    """Matrices stored as `qweight` in a checkpoint whose config names ``method``."""

    method: str
    read: Reader

    def kind(self, place: Weights) -> Hashable | None:
        """The same for all that are stored so."""
        if "qweight" not in place:
            return None
        config = place.checkpoint.config.quantization
        return self.method if config is not None and config.method == self.method else None

    def load(
        self, places: Sequence[Weights], rows: Sequence[int], inputs: int, numerics: Numerics
    ) -> Weight:
        """Take the matrices [rows_i, inputs] as one."""
        config = places[0].checkpoint.config.quantization
        assert config is not None  # see kind
        sized = zip(places, rows, strict=True)
        return group_weight([self.read(p, n, inputs, config) for p, n in sized], inputs, numerics)
