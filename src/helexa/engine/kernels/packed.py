"""Products of float32 activations with float16 matrices in FBGEMM's layout, on an x86 CPU.

FBGEMM is the library behind torch's quantised operators. It widens the matrix in registers and
sums in float32, so that nothing is lost but what float16 cannot hold of the matrix, one row of
activations costs little more than reading the matrix, and a few more rows cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

ENGINES = ("x86", "fbgemm")

Packed = NewType("Packed", object)
"""A packed matrix, an object of torch's that only these operators understand."""


def can_pack() -> bool:
    """Whether torch has these operators here: built with FBGEMM, set to use it, on a CPU for it."""
    quantized = torch.backends.quantized
    return quantized.engine in ENGINES and "fbgemm" in quantized.supported_engines


def pack(matrix: Tensor) -> Packed:
    """Lay out a matrix [N, K] float32, rounded to float16, in whose range it must be."""
    return cast("Packed", torch.ops.quantized.linear_prepack_fp16(matrix.contiguous(), None))


def unpack(packed: Packed) -> Tensor:
    """The matrix [N, K] in float32, as float16 rounded it."""
    return cast("Tensor", torch.ops.quantized.linear_unpack_fp16(packed)[0])


def packed_product(x: Tensor, packed: Packed) -> Tensor:
    """x @ Wᵀ: x [T, K] float32 → [T, N] float32."""
    return cast("Tensor", torch.ops.quantized.linear_dynamic_fp16(x, packed))
