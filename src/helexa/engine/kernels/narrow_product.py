"""Products in bfloat16, on a CPU that has instructions for it (AVX-512 BF16 or AMX).

Such a CPU multiplies two pairs of bfloat16 numbers where it would multiply one of float32, and adds
them up in float32. Only the two factors are rounded, and once more the result, for torch's operator
gives nothing else: in all an error of some 2⁻⁸ of a result's usual size. A row's result does not
depend on how many other rows there are.

oneDNN reorders a matrix for every product. One that is kept in its order (`reorder`) saves that,
which weighs most where there is one row.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NewType, cast

import torch

from helexa.engine.kernels.wide_product import has_onednn, onednn_product, padded, wide_product

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LEAST_ROWS = 16
"""Fewer rows than this gain less than rounding a matrix takes that is not in bfloat16."""
TILE_ROWS = 1024
"""Rows of a matrix that are multiplied at once: their results stay in a cache until widened."""

Reordered = NewType("Reordered", object)
"""A matrix in oneDNN's order, a tensor that only these operators understand."""


def many_rows_product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ Wᵀ with both rounded to bfloat16: x [T, K], weight [N, K] in any format and strides.

    → [T, N] float32. An x that is bfloat16 already is taken as it is: round it once for many
    tiles. For CPUs that `multiplies_bfloat16`.
    """
    rounded = padded(x, torch.bfloat16)
    if len(weight) <= TILE_ROWS:
        return onednn_product(rounded, in_bfloat16(weight))[: len(x)].float()
    out = torch.empty(len(rounded), len(weight))
    for start in range(0, len(weight), TILE_ROWS):
        part = in_bfloat16(weight[start : start + TILE_ROWS])
        out[:, start : start + len(part)] = onednn_product(rounded, part)
    return out[: len(x)]


def tile_product(x: Tensor, *, bfloat16: bool) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """How to multiply x [T, K] float32 with many tiles: what stands for it, and by what function.

    In bfloat16, where that is wanted and there are enough rows, else in float32. What stands for x
    is `padded`: of the results, the first T rows count.
    """
    if len(x) < LEAST_ROWS:
        return x, wide_product
    if bfloat16:
        return padded(x, torch.bfloat16), many_rows_product
    return padded(x), wide_product


def in_bfloat16(matrix: Tensor) -> Tensor:
    """A matrix rounded to bfloat16, by way of float32: five times as fast as straight."""
    if matrix.dtype == torch.float16:
        matrix = matrix.float()
    return matrix.to(torch.bfloat16)


def reorder(matrix: Tensor) -> Reordered:
    """Copy a bfloat16 matrix [N, K] into the order that oneDNN's kernels for this CPU want."""
    found = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), 1)
    return cast("Reordered", found)


def in_order(matrix: Reordered) -> Tensor:
    """The matrix [N, K] bfloat16, copied out."""
    return cast("Tensor", matrix).to_dense()


def reordered_product(x: Tensor, matrix: Reordered) -> Tensor:
    """x @ Wᵀ: x [T, K] bfloat16 → [T, N] bfloat16."""
    return onednn_product(x, cast("Tensor", matrix))


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it, and torch these operators, which none promises."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    if not has_onednn():
        return False
    x = torch.arange(64.0).view(2, 32).bfloat16()
    expected = x.float() @ x.flip(0).float().T
    try:
        matrix = reorder(x.flip(0))
        found = [onednn_product(x, x.flip(0)), reordered_product(x, matrix)]
        same = torch.equal(in_order(matrix), x.flip(0))
    except (RuntimeError, AttributeError, TypeError):
        return False
    return same and all(torch.equal(y, expected.bfloat16()) for y in found)
