"""Which tokens the host will draw, guessed on the device from what was computed for it to read.

A guess may be wrong: the host draws from what it reads, and compares. Greedy choices and draws
without top-k and top-p are at hand; others are drawn from the best tokens here, by the number
that the host will use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from helexa.engine.drawing import divisor, needs_ranking
from helexa.engine.logit_changes import SampleRow, known
from helexa.engine.philox import uniforms
from helexa.engine.upload import upload

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.read_ahead import Asked

MOST: Final = 512
"""Of how many tokens of a row a draw can be guessed."""


class Guess(NamedTuple):
    """A draw from the tokens ``row``: see `drawing.draw` for what it is of.

    ``top_k`` is the number of tokens if there is none; ``mass`` the place of the sum of all
    weights, -1 where top-p is of the tokens themselves.
    """

    row: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    number: float
    mass: int


def guesses(rows: Sequence[tuple[Asked, int, SampleRow]]) -> Tensor | None:
    """The token of each row, [len(rows)] int64 on the device; None if one cannot be guessed.

    A row is given with where it was asked for. All are ids of the vocabulary.
    """
    pieces: list[Tensor] = []
    places: dict[tuple[Asked, int], int] = {}
    count = 0
    for home in dict.fromkeys(one for one, _, _ in rows):
        sources = _sources(home, [(at, row) for one, at, row in rows if one is home])
        if sources is None:
            return None
        for of, ids in sources:
            places |= {(home, at): count + place for place, at in enumerate(of)}
            pieces.append(ids.long())
            count += len(ids)
    found = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    order = [places[home, at] for home, at, _ in rows]
    if order != list(range(count)):
        found = found.index_select(0, upload(order, found.device))
    return found.clamp(0, rows[0][0].vocab_size - 1)  # rows with NaN have any


def _sources(
    home: Asked, rows: Sequence[tuple[int, SampleRow]]
) -> list[tuple[Sequence[int], Tensor]] | None:
    """Ids on the device, and for which rows each tensor has them; None if some are not there."""
    drawn = [(at, row) for at, row in rows if known(row.params.temperature) > 0.0]
    ranked = [(at, row) for at, row in drawn if needs_ranking(row.params)]
    found: list[tuple[Sequence[int], Tensor]] = []
    if len(drawn) < len(rows):
        found.append((range(len(home.best)), home.best))
    if len(ranked) < len(drawn):
        found.append(([draw[0] for draw in home.draws], home.drawn))
    if ranked:
        if home.top_ids.shape[1] > MOST:
            return None
        found.append(([at for at, _ in ranked], _ranked(home, ranked)))
    return found


def _ranked(home: Asked, rows: Sequence[tuple[int, SampleRow]]) -> Tensor:
    """Draws of rows with top-k or top-p, [len(rows)] int64, from the best tokens of each."""
    places = {at: place for place, at in enumerate(sorted(home.tops))}
    masses = {asked: place for place, asked in enumerate(home.masses)}
    count = home.top_ids.shape[1]
    numbers = uniforms([(known(row.params.seed), len(row.generated)) for _, row in rows])
    asked = []
    for (at, row), number in zip(rows, numbers, strict=True):
        params = row.params
        top_k, temperature = known(params.top_k), divisor(params)
        limits = min(top_k, count) or count, known(params.top_p), known(params.min_p)
        mass = -1 if top_k else masses[at, temperature]
        asked.append(Guess(places[at], temperature, *limits, number, mass))
    if home.kernels:
        from helexa.engine.kernels.guess_triton import guess_by_kernel  # not everyone has triton

        return guess_by_kernel(home.top_values, home.top_ids, home.weighed, asked)
    return guess_definition(home.top_values, home.top_ids, home.weighed, asked)


def guess_definition(values: Tensor, ids: Tensor, masses: Tensor, asked: Sequence[Guess]) -> Tensor:
    """`drawing.draw` of some rows as far as these tokens tell: → ids [M] int64.

    Tokens have values [A, C] float32 and ids [A, C] int64, in any order; ``masses`` are float64.
    Weights are float64, as there. What falls behind all tokens gets the last that may be drawn.
    """
    columns = upload(asked, values.device, torch.float64).unbind(-1)
    row, temperature, top_k, top_p, min_p, number, mass = (one[:, None] for one in columns)
    values, ids = values[row[:, 0].long()].double(), ids[row[:, 0].long()]
    order = ids.argsort(-1)
    order = order.gather(-1, values.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
    values, ids = values.gather(-1, order), ids.gather(-1, order)
    rank = torch.arange(values.shape[1], device=values.device)
    weights = ((values - values[:, :1]) / temperature).exp() * (rank < top_k)
    sums = weights.cumsum(-1)
    whole = sums[:, -1:]
    if len(masses):
        whole = torch.where(mass >= 0, masses[mass[:, 0].long().clamp(min=0)][:, None], whole)
    last = (sums < top_p * whole).sum(-1, keepdim=True)
    kept = (weights >= min_p) & ((rank <= last) | (top_p >= 1.0))
    order = ids.argsort(-1)
    ids = ids.gather(-1, order)
    weights = (weights * kept).gather(-1, order)
    sums = weights.cumsum(-1)
    adds = weights > 0.0
    above = adds & (sums > number * sums[:, -1:])
    found = torch.where(above.any(-1), above.int().argmax(-1), (rank * adds).amax(-1))
    return ids.gather(-1, found[:, None])[:, 0]
