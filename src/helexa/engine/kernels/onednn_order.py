"""The memory of matrices that oneDNN has put into its own order, for others to read.

oneDNN multiplies many rows by a bfloat16 matrix fastest if that lies in an order of its own. On
CPUs with instructions for bfloat16 it is that of `paired`: compiled loops read the same memory, and
one copy serves few rows and many. Nothing promises the order, and it may differ between sizes: it
is looked at before it is relied on.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from helexa.engine.kernels.narrow_product import multiplies_bfloat16, reorder
from helexa.engine.kernels.paired import BLOCK, paired_words

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.kernels.narrow_product import Reordered

COLUMN_STEP = 32
"""What columns are padded to a multiple of; rows are to whole blocks."""
FINITE = 2**14
"""Below this, all bits of 16 stand for numbers."""

PIECE = 16
"""Blocks of rows that are compared at a time."""
LOOKING = threading.Lock()


def padded_shape(rows: int, columns: int) -> tuple[int, int]:
    """What a matrix [rows, columns] takes room for: the rest is zeros."""
    return -(-rows // BLOCK) * BLOCK, -(-columns // COLUMN_STEP) * COLUMN_STEP


def whole_blocks(matrix: Tensor) -> Tensor:
    """A matrix [N, K], with zeros to its `padded_shape`."""
    rows, columns = padded_shape(*matrix.shape)
    return F.pad(matrix, (0, columns - matrix.shape[1], 0, rows - len(matrix)))


def words_of(matrix: Reordered) -> Tensor:
    """The memory that a matrix lies in: int32, flat, alive as long as anything reads it.

    Raises what torch raises where it does not tell.
    """
    operators: Any = torch.ops.mkldnn
    size = operators._nbytes(matrix)
    memory = (ctypes.c_char * size).from_address(operators.data_ptr(matrix))
    memory.owner = matrix  # a tensor of this memory holds it
    return torch.frombuffer(memory, dtype=torch.int32)


def in_blocks(matrix: Reordered, shape: tuple[int, int]) -> Tensor:
    """The words [N / 64, K / 2, 64] of a matrix ``shape`` whose order `is_paired`, padded."""
    _, columns = padded_shape(*shape)
    return words_of(matrix).view(-1, columns // 2, BLOCK)


def is_paired(rows: int, columns: int) -> bool:
    """Whether oneDNN puts matrices [rows, columns] into the order of `paired`, padded.

    False on CPUs without instructions for bfloat16. Nobody else's random numbers change by it.
    """
    with LOOKING:  # two threads that load layers of one shape look once
        return looked_at(rows, columns)


@cache
def looked_at(rows: int, columns: int) -> bool:
    """`is_paired`, from a matrix of random bits and another of what oneDNN makes of it."""
    if not multiplies_bfloat16():
        return False
    random = torch.Generator().manual_seed(0)
    numbers = torch.randint(FINITE, (rows, columns), dtype=torch.int16, generator=random)
    bits = numbers.view(torch.bfloat16)
    try:
        found = words_of(reorder(bits))
    except (RuntimeError, AttributeError, TypeError, ValueError):
        return False
    all_rows, all_columns = padded_shape(rows, columns)
    if found.numel() * 2 != all_rows * all_columns:
        return False
    blocks = torch.split(found.view(-1, all_columns // 2, BLOCK), PIECE)
    pieces = torch.split(bits, PIECE * BLOCK)
    return all(
        torch.equal(block, paired_words(whole_blocks(piece)))
        for block, piece in zip(blocks, pieces, strict=True)
    )
