"""Experts whose matrices stay in the bytes they are stored in, found by their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.stored_matrix import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ALIGNMENTS = (16, 8, 4, 2, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Addresses:
    """Where each of E experts has a matrix of one kind.

    ``table`` [E, n] int64 holds the addresses of the matrix's n tensors, all of them multiples of
    ``alignment`` bytes; ``first`` is one of the matrices, ``matrices`` keeps all in memory.
    """

    table: Tensor
    alignment: int
    matrices: tuple[StoredMatrix, ...]

    @property
    def first(self) -> StoredMatrix:
        return self.matrices[0]


@dataclass(frozen=True, slots=True, eq=False)
class StoredExperts:
    """Gated MLPs: gate_up [2I, H] and down [H, I] as parts, one below the other."""

    gate_up: tuple[Addresses, ...]
    down: tuple[Addresses, ...]


def addresses(matrices: Sequence[StoredMatrix]) -> Addresses | None:
    """The table of some matrices; None if they are not of one kind."""
    if len({matrix.kind for matrix in matrices}) != 1:
        return None
    places = [[tensor.data_ptr() for tensor in matrix.tensors] for matrix in matrices]
    alignment = next(n for n in ALIGNMENTS if all(at % n == 0 for row in places for at in row))
    table = torch.tensor(places, device=matrices[0].tensors[0].device)
    return Addresses(table, alignment, tuple(matrices))


def all_addresses(experts: Sequence[Sequence[StoredMatrix] | None]) -> tuple[Addresses, ...] | None:
    """The tables of each part of the experts' matrices; None if their parts are not alike."""
    parts = [expert for expert in experts if expert is not None]
    if len(parts) < len(experts) or len({len(expert) for expert in parts}) != 1:
        return None
    found = [addresses(part) for part in zip(*parts, strict=True)]
    tables = tuple(table for table in found if table is not None)
    return tables if len(tables) == len(found) else None
