"""One-row products with matrices of small integers, by torch's operators for embedding bags.

An embedding bag is a weighted sum of rows of a table of integers, which FBGEMM widens in registers
and sums in float32. With the columns of a matrix [N, K] as rows of the table and the activations
as weights, the sum over a group of columns that share a scale is a bag: K / group bags give [K /
group, N], which multiplied by the scales and added up is the product. Nothing is rounded but sums,
and the integers are read once, in 8, 4 or 2 bits.

A row of a table of 4 or 2 bits ends in its own scale and offset in float16, of 8 bits in float32.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

ENGINES = ("x86", "fbgemm")


def can_bag() -> bool:
    """Whether torch has these operators here in FBGEMM's version."""
    return torch.backends.quantized.engine in ENGINES


def empty_table(columns: int, rows: int, bits: int, bias: int) -> Tensor:
    """A table for a matrix [N, K] = [rows, columns] of integers, whose values are q + bias.

    → [K, N · bits / 8 and a little] uint8; N must be whole bytes.
    """
    form = torch.float32 if bits == 8 else torch.float16
    tail = torch.tensor([1, bias], dtype=form).view(torch.uint8)
    table = torch.empty(columns, rows * bits // 8 + len(tail), dtype=torch.uint8)
    table[:, -len(tail) :] = tail
    return table


def fill_table(table: Tensor, start: int, q: Tensor, bits: int) -> None:
    """Write the rows of a matrix from ``start`` on: q [n, K] uint8, start and n whole bytes."""
    each = 8 // bits
    columns = q.T.contiguous()
    packed = columns[:, ::each].clone()
    for place in range(1, each):
        packed |= columns[:, place::each] << (bits * place)
    at = start // each
    table[:, at : at + packed.shape[1]] = packed


def read_table(table: Tensor, start: int, count: int, bits: int) -> Tensor:
    """The integers of ``count`` rows of the matrix, transposed: → [K, count] uint8."""
    each = 8 // bits
    packed = table[:, start // each : (start + count) // each]
    if each == 1:
        return packed
    mask = (1 << bits) - 1
    return torch.stack([(packed >> (bits * place)) & mask for place in range(each)], -1).flatten(1)


Bags = tuple[Tensor, Tensor]
"""Which rows of a table are summed, one bag after the other, and where each bag begins; int32."""


def bags(tokens: int, columns: int, group: int) -> Bags:
    """The bags of so many rows of activations: each sums ``group`` consecutive rows of a table."""
    index = torch.arange(columns, dtype=torch.int32).repeat(tokens)
    return index, torch.arange(0, tokens * columns, group, dtype=torch.int32)


def bag_sums(x: Tensor, table: Tensor, bits: int, of: Bags) -> Tensor:
    """For each row x and each group of columns, the products with the group's part of a matrix.

    x [T, K] float32 → [T, K / group, N] float32.
    """
    operators = torch.ops.quantized
    operator = {
        8: operators.embedding_bag_byte_rowwise_offsets,
        4: operators.embedding_bag_4bit_rowwise_offsets,
        2: operators.embedding_bag_2bit_rowwise_offsets,
    }[bits]
    index, starts = of
    out = operator(table, index, starts, False, 0, False, x.reshape(-1), None, False)
    return cast("Tensor", out).view(len(x), len(starts) // len(x), -1)
