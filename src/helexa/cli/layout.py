"""A checkpoint's tensors, summed up by the pattern of their names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helexa.engine.checkpoint.table import TensorInfo

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors alike: ``model.layers.*.mlp.up_proj.weight``, one shape and dtype, how many."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """How many bits a number takes."""
        numbers = math.prod(self.shape) * self.count
        return 8 * self.bytes / numbers if numbers else 0.0


def grouped(tensors: Iterable[TensorInfo], *, by_layer: bool = True) -> list[TensorGroup]:
    """Groups in the order of their first tensor; each tensor alone without ``by_layer``."""
    sums: dict[tuple[str, tuple[int, ...], str], tuple[int, int]] = {}
    for info in tensors:
        name = _NUMBER.sub("*", info.name) if by_layer else info.name
        key = name, tuple(info.shape), dtype_name(info.dtype)
        count, total = sums.get(key, (0, 0))
        sums[key] = count + 1, total + info.nbytes
    return [TensorGroup(*key, *value) for key, value in sums.items()]


def by_number(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A key that sorts layer 2 before layer 10."""
    return tuple(
        (False, int(part), "") if part.isdecimal() else (True, 0, part) for part in name.split(".")
    )


def dtype_name(stored: str) -> str:
    """The name that ``--dtype`` takes for a stored dtype, else the stored one."""
    return DTYPE_NAMES.get(stored, stored)
