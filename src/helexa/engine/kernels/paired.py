"""Products of few rows with bfloat16 matrices in blocks of pairs, for `kernels.compiled`.

The layout: blocks of 64 rows, a block transposed, but for neighbouring columns, which stay in
pairs. A 32-bit word is such a pair, the lower half the even column. It is also the order that
oneDNN's kernels want on CPUs with instructions for bfloat16 (see `onednn_order`).

A loop over it reads memory from end to end, and as a register holds words of 16 rows, sums need no
addition across one. Beside rows as they are stored, one row gains little, several together gain
most (benchmarks/README.md, "Compiled kernels").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.few_rows import FEW, Plan

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64
LANES = 16
"""Rows that are summed side by side, one register of float32 numbers."""
UPPER = -(2**16)
"""The bits of a word's upper half."""
IN_LAYERS = Plan(most=FEW)
"""Four rows take little longer than one; more than these are faster by oneDNN."""
ALONE = Plan(sizes=(1, FEW, 2 * FEW))
"""For any number of rows: eight at once read the matrix half as often as four."""


def paired_words(matrix: Tensor) -> Tensor:
    """Lay out a matrix [N, K] bfloat16: a view [N / 64, K / 2, 64] int32; N is whole blocks."""
    rows, columns = matrix.shape
    words = matrix.contiguous().view(torch.int32)
    return words.view(rows // BLOCK, BLOCK, columns // 2).transpose(1, 2)


def paired_matrix(words: Tensor) -> Tensor:
    """The matrix [N, K] bfloat16 that `paired_words` laid out, copied out."""
    return words.transpose(1, 2).contiguous().view(torch.bfloat16).flatten(0, 1)


def paired_product(x: Tensor, words: Tensor) -> Tensor:
    """x @ Wᵀ for few rows: x [T, K] float32, words [N / 64, K / 2, 64] int32 → [T, N] float32.

    Sums over the same columns become one loop, in which each word is read once.
    """
    pairs = x.view(len(x), words.shape[1], 2, 1)
    parts = [words[..., start : start + LANES] for start in range(0, BLOCK, LANES)]
    wide = [[half.view(torch.float32) for half in (part << 16, part & UPPER)] for part in parts]
    return torch.stack(
        [
            torch.cat([(even * row[:, 0] + odd * row[:, 1]).sum(1) for even, odd in wide], 1)
            for row in pairs
        ]
    ).flatten(1)
