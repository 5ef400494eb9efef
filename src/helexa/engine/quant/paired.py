"""Plain bfloat16 weights in blocks of pairs (see `kernels.paired`), for a compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from helexa.engine.kernels.few_rows import FewRows, Plan
from helexa.engine.kernels.narrow_product import in_order, reordered_product
from helexa.engine.kernels.onednn_order import in_blocks
from helexa.engine.kernels.paired import (
    ALONE,
    BLOCK,
    IN_LAYERS,
    paired_matrix,
    paired_product,
    paired_words,
)
from helexa.engine.kernels.wide_product import padded
from helexa.engine.quant.large_pages import large_pages
from helexa.engine.quant.weight import Recipe, Traced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helexa.engine.kernels.compiled import Compiler
    from helexa.engine.kernels.narrow_product import Reordered

PIECE_BLOCKS = 128
"""Blocks that are laid out at once."""


@dataclass(frozen=True, slots=True, eq=False)
class OrderedWeight:
    """A bfloat16 matrix ``shape`` = [N, K] in oneDNN's order, which compiled kernels read, too.

    A ``few`` rows are multiplied as they are, and sums stay in float32. More are rounded to
    bfloat16, and so are their results.
    """

    reordered: Reordered
    shape: tuple[int, int]
    traced: Traced
    few: FewRows

    @property
    def nbytes(self) -> int:
        rows, columns = self.shape
        return 2 * rows * columns

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, bfloat16."""
        return in_order(self.reordered)

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        if len(x) <= self.few.most:
            return self.few(x)[0]
        return reordered_product(padded(x, torch.bfloat16), self.reordered)[: len(x)].float()


@dataclass(frozen=True, slots=True, eq=False)
class PairedWeight:
    """A bfloat16 matrix ``shape`` = [N, K] of an output layer.

    Any number of rows is multiplied as it is, a ``few`` at a time, and sums stay in float32.
    ``words`` [B, K / 2, 64] int32, the last block with rows of zeros.
    """

    words: Tensor
    shape: tuple[int, int]
    few: FewRows

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    def matrix(self) -> Tensor:
        """The whole matrix [N, K], copied out, bfloat16."""
        return self.rows(0, self.shape[0])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop of `matrix`."""
        first = start // BLOCK
        found = paired_matrix(self.words[first : -(-stop // BLOCK)])
        return found[start - first * BLOCK : stop - first * BLOCK]

    def matmul(self, x: Tensor) -> Tensor:
        """x @ Wᵀ, x [T, K] float32 → [T, N] float32."""
        return self.few(x)[0][:, : self.shape[0]]


def ordered_weight(matrix: Reordered, shape: tuple[int, int], compiler: Compiler) -> OrderedWeight:
    """The weight of a matrix whose order `is_paired`, with kernels that are yet to be compiled."""
    traced = traced_words(in_blocks(matrix, shape), shape[0], IN_LAYERS)
    return OrderedWeight(matrix, shape, traced, traced.own_kernels(shape[1], compiler))


def paired_weight(
    parts: Sequence[Tensor], compiler: Compiler, *, on_large_pages: bool
) -> PairedWeight:
    """The matrices [N_i, K], which bfloat16 holds, as one; K is even."""
    count, columns = sum(map(len, parts)), parts[0].shape[1]
    blocks = -(-count // BLOCK)
    words = large_pages((blocks, columns // 2, BLOCK), torch.int32, wanted=on_large_pages)
    matrix = parts[0] if len(parts) == 1 else torch.cat([part.bfloat16() for part in parts])
    for start in range(0, blocks, PIECE_BLOCKS):
        piece = matrix[start * BLOCK : (start + PIECE_BLOCKS) * BLOCK].bfloat16()
        piece = F.pad(piece, (0, 0, 0, -len(piece) % BLOCK))
        words[start : start + len(piece) // BLOCK] = paired_words(piece)
    few = traced_words(words, count, ALONE).own_kernels(columns, compiler)
    return PairedWeight(words, (count, columns), few)


def traced_words(words: Tensor, rows: int, plan: Plan) -> Traced:
    """The product with a matrix [rows, K] in ``words``, for a compiler."""
    return Traced(Recipe(paired_product, (), 1, rows, plan), (words,))
