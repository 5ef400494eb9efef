"""How many of a model's numbers a stored tensor holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helexa.engine.checkpoint.table import TensorInfo
    from helexa.engine.quantization_config import QuantizationConfig

WORD_BITS = 32
PLAIN_DTYPES = ("F32", "F16", "BF16")
QUANTISED_DTYPES = ("F8_E4M3", "F8_E8M0", "I64", "I32", "I8", "U8")
"""What may occur beside the plain ones in a checkpoint that says how it is quantised."""
PACKED = ("qweight", "weight_packed")
BESIDE = frozenset(
    {
        *("qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv", "weight_zero_point"),
        *("weight_shape", "weight_g_idx", "input_scale", "input_zero_point", "activation_scale"),
    }
)
"""What belongs to quantised weights and is no weight itself."""
OF_STACKS = ("gate_up_proj_", "down_proj_")
"""Of matrices stacked to one tensor it is named after that (see `weights.Entry`)."""


def numbers(info: TensorInfo, quantization: QuantizationConfig | None) -> int:
    """The weights that a tensor holds; padding of the last word counted, too."""
    if quantization is None:
        return math.prod(info.shape)
    module, _, part = info.name.rpartition(".")
    if is_beside(part):
        return 0
    if part in PACKED:
        scheme = quantization.scheme(module)
        bits = quantization.bits if scheme is None else scheme.bits
        return math.prod(info.shape) * WORD_BITS // bits
    return math.prod(info.shape)


def stays(info: TensorInfo, quantization: QuantizationConfig | None) -> bool:
    """Whether a tensor keeps its format in memory, whatever dtype plain ones are kept in."""
    if quantization is None:
        return False
    return info.dtype not in PLAIN_DTYPES or is_beside(info.name.rpartition(".")[2])


def is_beside(part: str) -> bool:
    """Whether the last part of a name says that this is no weight but belongs to some."""
    for stack in OF_STACKS:
        if part.startswith(stack):
            rest = part.removeprefix(stack)
            return rest in BESIDE or f"weight_{rest}" in BESIDE
    return part in BESIDE
