"""A matrix in blocks before it has its place in memory: rows that are read piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from helexa.engine.quant.blocks.block_type import BlockType

PIECE_ELEMENTS = 2**18
"""Numbers of a piece, which in float32 is a megabyte: it stays in a core's cache."""
PIECE_ROWS = 64
"""Pieces begin at multiples of this (blocks of `kernels.int4_groups` fit in)."""
LARGE = 2**24
"""Matrices of more numbers are made by several threads; smaller ones are loaded side by side."""


class Sink(Protocol):
    """What pieces are written to, by several threads at once."""

    def fill(self, start: int, blocks: Tensor) -> None:
        """Take the rows [n, bytes] from ``start`` on."""


@dataclass(frozen=True, slots=True)
class BlockRows:
    """A matrix of ``shape`` (N, K); ``read`` gives its rows start … stop as blocks [n, bytes]."""

    type: BlockType
    shape: tuple[int, int]
    read: Callable[[int, int], Tensor]

    def pieces(self, unit: int = PIECE_ROWS) -> Iterator[tuple[int, int]]:
        """First and last + 1 row of each piece, which begins at a multiple of ``unit``."""
        rows, columns = self.shape
        step = max(unit, PIECE_ELEMENTS // columns // unit * unit)
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def write(self, sink: Sink, unit: int = PIECE_ROWS) -> None:
        """Hand every piece (see `pieces`) over; a large matrix by as many threads as torch uses."""

        def hand_over(piece: tuple[int, int]) -> None:
            sink.fill(piece[0], self.read(*piece))

        rows, columns = self.shape
        if rows * columns <= LARGE:
            for piece in self.pieces(unit):
                hand_over(piece)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(hand_over, self.pieces(unit)))


def stacked_rows(parts: Sequence[Tensor], start: int, stop: int) -> Tensor:
    """Rows start … stop of the matrices [N_i, …] as if they lay one below the other."""
    found, first = [], 0
    for part in parts:
        piece = part[max(0, start - first) : max(0, stop - first)]
        first += len(part)
        if len(piece):
            found.append(piece)
    return found[0] if len(found) == 1 else torch.cat(found)


def stored_rows(type: BlockType, parts: Sequence[Tensor], columns: int) -> BlockRows:
    """Blocks [N_i, bytes] that exist already."""
    rows = sum(map(len, parts))
    return BlockRows(type, (rows, columns), lambda a, b: stacked_rows(parts, a, b))


def quantised_rows(type: BlockType, parts: Sequence[Tensor]) -> BlockRows:
    """Plain matrices [N_i, K], quantised when they are read."""
    shape = (sum(map(len, parts)), parts[0].shape[1])
    return BlockRows(type, shape, lambda a, b: type.rows(stacked_rows(parts, a, b).float()))
