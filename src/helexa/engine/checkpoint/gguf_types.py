"""The number formats of GGUF tensors, as far as sizes go.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class GGUFType:
    """A format: blocks of ``elements`` consecutive numbers of a row, ``nbytes`` bytes each."""

    name: str
    id: int
    elements: int
    nbytes: int

    @property
    def plain(self) -> bool:
        """Whether each number stands for itself."""
        return self.elements == 1

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of so many numbers, a multiple of ``elements``."""
        return columns // self.elements * self.nbytes

    def tensor_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor whose last axis is a row."""
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1] if shape else 1)


READABLE = MappingProxyType(
    {
        type.name: type
        for type in (
            GGUFType("F32", 0, 1, 4),
            GGUFType("F16", 1, 1, 2),
            GGUFType("BF16", 30, 1, 2),
            GGUFType("Q4_0", 2, 32, 18),
            GGUFType("Q4_1", 3, 32, 20),
            GGUFType("Q5_0", 6, 32, 22),
            GGUFType("Q5_1", 7, 32, 24),
            GGUFType("Q8_0", 8, 32, 34),
            GGUFType("Q2_K", 10, 256, 84),
            GGUFType("Q3_K", 11, 256, 110),
            GGUFType("Q4_K", 12, 256, 144),
            GGUFType("Q5_K", 13, 256, 176),
            GGUFType("Q6_K", 14, 256, 210),
        )
    }
)
"""What can be read, by name."""

BY_ID = MappingProxyType({type.id: type for type in READABLE.values()})

OTHERS = MappingProxyType(
    {
        9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
        20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
        27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
    }
)  # fmt: skip
"""Names of formats that exist and cannot be read, by id, for messages."""


def type_name(id: int) -> str:
    """The name of a format, whether or not it can be read."""
    return BY_ID[id].name if id in BY_ID else OTHERS.get(id, f"type {id}")
