"""Products of few rows with a matrix that is read once, row by row, for `kernels.compiled`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def streamed_product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ Wᵀ: x [T, K] float32, matrix [N, K] in any plain format → [T, N] float32.

    A compiler widens each number where it is, in registers, and sums in float32, so that one row
    takes little longer than reading the matrix does.
    """
    wide = matrix.float()
    return torch.stack([(wide * row).sum(-1) for row in x])
