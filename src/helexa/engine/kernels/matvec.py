"""Products of float32 activations with 16-bit matrices on a CPU."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from helexa.engine.kernels.wide_product import LEAST_ROWS, padded, wide_product

TILE_BYTES = 2**20


class Scratch:
    """Working memory that all weights of a model share, claimed when first used.

    For one thread at a time: whoever runs the model owns it.
    """

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def tile(self, rows: int, columns: int) -> Tensor:
        """An uninitialised float32 matrix [rows, columns]."""
        if self.buffer.numel() < rows * columns:
            self.buffer = torch.empty(rows * columns)
        return self.buffer[: rows * columns].view(rows, columns)


def product_definition(x: Tensor, weight: Tensor) -> Tensor:
    """x @ Wᵀ: x [T, K] float32, weight [N, K] in any plain format → [T, N] float32."""
    return x @ weight.float().T


@cache
def tiny() -> Tensor:
    """A number that changes nothing but zero; adding a tensor is quicker than adding a float.

    Not made when this is imported: `engine.pages` must come before torch's first allocation.
    """
    return torch.tensor(1e-30)


def row_scale(x: Tensor) -> Tensor:
    """The length of each row: x [T, K] → [T, 1], never zero."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.add_(tiny())


def one_row_product(x: Tensor, weight: Tensor) -> Tensor:
    """`product_definition` for one row and a float16 matrix, read once at memory speed.

    x [1, K] float32 → [1, N] float32; inputs and outputs are rounded to float16 on the way. The
    row is scaled to length 1, so nothing overflows as long as no row of the matrix is longer than
    float16's range.
    """
    scale = row_scale(x)
    out: Tensor = F.linear((x / scale).to(weight.dtype), weight) * scale
    return out


def expanded_product(x: Tensor, weight: Tensor, scratch: Scratch) -> Tensor:
    """`product_definition` by expanding a few rows of the matrix at a time to float32.

    x [T, K] float32, weight [N, K] → [T, N] float32.
    """
    rows, columns = weight.shape
    step = max(1, TILE_BYTES // (4 * columns))
    count, x = len(x), padded(x) if len(x) >= LEAST_ROWS else x
    out = x.new_empty(len(x), rows)
    for start in range(0, rows, step):
        part = weight[start : start + step]
        tile = scratch.tile(*part.shape).copy_(part)
        out[:, start : start + step] = wide_product(x, tile)
    return out[:count]
