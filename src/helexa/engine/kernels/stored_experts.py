"""Experts whose matrices stay in the bytes they are stored in, found by their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from helexa.engine.kernels.stored_matrix import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

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
    """Gated MLPs of one kind: gate_up [2I, H] and down [H, I] as parts, one below the other."""

    gate_up: tuple[Addresses, ...]
    down: tuple[Addresses, ...]

    @property
    def count(self) -> int:
        return len(self.down[0].matrices)


@dataclass(frozen=True, slots=True, eq=False)
class MixedExperts:
    """E experts that are not all stored alike, by ``kinds``.

    ``numbers`` [kinds, E] int64 says which of a kind's experts one is; the kind's count: none.
    """

    kinds: tuple[StoredExperts, ...]
    numbers: Tensor


def addresses(matrices: Sequence[StoredMatrix]) -> Addresses:
    """The table of some matrices of one kind."""
    places = [[tensor.data_ptr() for tensor in matrix.tensors] for matrix in matrices]
    alignment = next(n for n in ALIGNMENTS if all(at % n == 0 for row in places for at in row))
    table = torch.tensor(places, device=matrices[0].tensors[0].device)
    return Addresses(table, alignment, tuple(matrices))


def experts_of_kinds(
    experts: Sequence[tuple[Sequence[StoredMatrix], Sequence[StoredMatrix]]],
) -> StoredExperts | MixedExperts:
    """The tables of experts, given the parts of gate_up and of down of each."""
    kinds: dict[Hashable, list[int]] = {}
    for number, (gate_up, down) in enumerate(experts):
        kind = tuple(part.kind for part in gate_up), tuple(part.kind for part in down)
        kinds.setdefault(kind, []).append(number)
    made = tuple(
        StoredExperts(
            all_addresses([experts[number][0] for number in members]),
            all_addresses([experts[number][1] for number in members]),
        )
        for members in kinds.values()
    )
    if len(made) == 1:
        return made[0]
    numbers = [[len(members)] * len(experts) for members in kinds.values()]
    for row, members in zip(numbers, kinds.values(), strict=True):
        for place, number in enumerate(members):
            row[number] = place
    return MixedExperts(made, torch.tensor(numbers, device=made[0].down[0].table.device))


def all_addresses(experts: Sequence[Sequence[StoredMatrix]]) -> tuple[Addresses, ...]:
    """The tables of each part of the experts' matrices, which are alike."""
    return tuple(addresses(parts) for parts in zip(*experts, strict=True))
