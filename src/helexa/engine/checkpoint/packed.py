"""Matrices of integers that several stored tensors make up: what they are, and what they take.

The layouts are described where they are read: `quant.gptq`, `quant.awq` and `quant.compressed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from helexa.engine.checkpoint.counting import BESIDE, PACKED, WORD_BITS
from helexa.engine.checkpoint.table import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from helexa.engine.checkpoint.table import TensorInfo
    from helexa.engine.quantization_config import QuantizationConfig

BLOCK_ROWS = 64
"""Outputs are kept in whole blocks of so many (see `quant.groups`)."""
OPERATOR_GROUPS = (256, 128, 64, 32)
"""How many inputs share a scale in the operator for 4 bits (see `kernels.int4_groups`)."""
TABLE_BYTES = 4
"""A scale and a middle for that operator, of each output."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix [outputs, inputs] of integers of ``bits``, with ``groups`` scales in each row.

    ``parts`` are the tensors it is stored in. ``scale_bytes`` are those of one scale; ``zeros``:
    each has a zero point; ``ordered``: inputs are in an order of their own.
    """

    name: str
    format: str
    shape: tuple[int, int]
    bits: int
    groups: int
    scale_bytes: int
    zeros: bool
    ordered: bool
    parts: tuple[TensorInfo, ...]

    @property
    def info(self) -> TensorInfo:
        """As one tensor of the shape and the format that it means."""
        total = sum(part.nbytes for part in self.parts)
        return replace(
            self.parts[0], name=self.name, shape=self.shape, dtype=self.format, nbytes=total
        )

    @property
    def padded(self) -> int:
        """Outputs as they are kept."""
        return -(-self.shape[0] // BLOCK_ROWS) * BLOCK_ROWS

    @property
    def held_bytes(self) -> int:
        """What loading keeps in memory: 2 and 3 bits as 4, 5 to 7 as 8, zero points as bytes."""
        inputs = self.shape[1]
        codes = self.padded * inputs // (2 if self.bits <= 4 else 1)
        scales = self.padded * self.groups * (self.scale_bytes + self.zeros)
        return codes + scales + (8 * inputs if self.ordered else 0)

    @property
    def table_bytes(self) -> int:
        """What a CPU keeps beside that to multiply in 16 bits; 0 where its operator does not."""
        inputs = self.shape[1]
        group = inputs // max(1, self.groups)
        size = next((size for size in OPERATOR_GROUPS if group and group % size == 0), None)
        if self.bits > 4 or size is None:
            return 0
        return self.padded * (inputs // size) * TABLE_BYTES


def packed_matrices(
    table: Mapping[str, TensorInfo], quantization: QuantizationConfig | None
) -> dict[str, PackedMatrix]:
    """The packed matrices of a checkpoint, by the name of the tensor that has their integers.

    What cannot be one, as its shape or its scales are wrong, is left out: loading tells of it.
    """
    if quantization is None:
        return {}
    found = ((name, packed_matrix(name, table, quantization)) for name in table)
    return {name: matrix for name, matrix in found if matrix is not None}


def packed_matrix(
    name: str, table: Mapping[str, TensorInfo], quantization: QuantizationConfig
) -> PackedMatrix | None:
    """The matrix whose integers are a tensor of this name; None if they are not."""
    module, _, part = name.rpartition(".")
    words = table[name]
    scheme = quantization.scheme(module)
    bits = scheme.bits if scheme is not None else quantization.bits
    scale = table.get(f"{module}.{'scales' if part == 'qweight' else 'weight_scale'}")
    if part not in PACKED or len(words.shape) != 2 or scale is None or not bits:
        return None
    index = table.get(f"{module}.{'g_idx' if part == 'qweight' else 'weight_g_idx'}")
    per_word, method, group = WORD_BITS // bits, quantization.method, quantization.group_size
    if part == "weight_packed":
        outputs, inputs = words.shape[0], words.shape[1] * WORD_BITS // bits
        groups, method = math.prod(scale.shape[1:]), "int"
        group = (scheme.group_size if scheme is not None else None) or -1
    elif method == "awq":
        outputs, inputs, groups = words.shape[1] * per_word, words.shape[0], scale.shape[0]
    else:
        outputs, inputs, groups = words.shape[1], words.shape[0] * WORD_BITS // bits, scale.shape[0]
    label = f"int{bits}" if method == "int" else f"{method} {bits}"
    beside = (table.get(f"{module}.{part}") for part in sorted(BESIDE))
    return PackedMatrix(
        name=f"{module}.weight",
        format=f"{label} g{group}" if group > 0 else label,
        shape=(outputs, inputs if index is None else math.prod(index.shape)),
        bits=bits,
        groups=max(1, groups),
        scale_bytes=ITEM_BYTES.get(scale.dtype, 0),
        zeros=any(f"{module}.{part}" in table for part in ("qzeros", "weight_zero_point")),
        ordered=index is not None and (method == "int" or quantization.desc_act),
        parts=(words, *(info for info in beside if info is not None)),
    )


def as_meant(
    table: Mapping[str, TensorInfo], matrices: Mapping[str, PackedMatrix]
) -> Iterator[TensorInfo]:
    """Every tensor, but packed matrices as one of the shape and the format that they mean."""
    parts = {part.name for matrix in matrices.values() for part in matrix.parts}
    for name, info in table.items():
        if name in matrices:
            yield matrices[name].info
        elif name not in parts:
            yield info
