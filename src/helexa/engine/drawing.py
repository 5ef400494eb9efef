"""Which of a row's best tokens may be drawn, and the draw itself."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from helexa.engine.logit_changes import known
from helexa.engine.ranking import Blocks, Ranking, rankings

if TYPE_CHECKING:
    from helexa.engine.params import SamplingParams

FIRST_READ: Final = 128
MARGIN: Final = 32  # read past the k-th token, to see where the tokens equal to it end
_FEW: Final = 64  # the most tokens for which lists are faster than arrays
_TEMPERATURES: Final = (1e-30, 1e30)  # what float32 can divide by
_SMALLEST: Final = math.ulp(0.0)


def first_read(params: SamplingParams) -> int:
    """How many of its best tokens a row probably needs: a function of its own params alone."""
    top_k = known(params.top_k)
    return top_k + MARGIN if top_k else FIRST_READ


def needs_ranking(params: SamplingParams) -> bool:
    """Whether a draw must know a row's best tokens: only top-k and top-p ask for their order."""
    return bool(known(params.top_k)) or known(params.top_p) < 1.0


def draw_open(blocks: Blocks, index: int, params: SamplingParams, number: float) -> int:
    """The token id that ``number`` in [0, 1) falls on, for a row without top-k and top-p."""
    return blocks.draw(index, divisor(params), known(params.min_p), number)


def draw(ranking: Ranking, params: SamplingParams, number: float) -> int:
    """The token id that ``number`` in [0, 1) falls on after top-k, top-p of what is left, min-p.

    Weights are float64, relative to the best token's. Top-p adds them up from the best token to
    the worst; the inverse CDF runs over what is kept by id, because ids stay where they are when
    two nearly equal logits change places by rounding. Source: Holtzman et al., arXiv:1904.09751
    (top-p); Nguyen et al., arXiv:2407.01082 (min-p); filters and renormalising as in transformers.
    """
    temperature = divisor(params)
    top_k, top_p, min_p = known(params.top_k), known(params.top_p), known(params.min_p)
    while top_k and len(ranking) < top_k and not ranking.whole:
        ranking.extend()
    total: float | None = None
    while True:
        values = ranking.values[: top_k or None].astype(np.float64)
        weights = np.exp((values - ranking.peak) / temperature)
        if top_k or ranking.whole:
            total = None
        elif total is None:
            total = ranking.mass(temperature)
        kept = count_kept(weights, total, top_p, min_p)
        if kept is not None:
            order = ranking.ids[:kept].argsort()
            return int(ranking.ids[order[place(weights[order], number)]])
        ranking.extend()


def draw_ranked(
    blocks: Blocks, indices: Sequence[int], asked: Sequence[tuple[SamplingParams, float]]
) -> list[int]:
    """`draw` for some rows: the params and the number of each → a token id for each.

    Rows with the same top-k are read together; what that leaves open is drawn as `draw` does.
    """
    drawn: list[int | None] = [None] * len(indices)
    alike: dict[int, list[int]] = {}
    for at, (params, _) in enumerate(asked):
        if 0 < known(params.top_k) <= _FEW:
            alike.setdefault(known(params.top_k), []).append(at)
    for top_k, places in alike.items():
        found = blocks.highest([indices[at] for at in places], top_k)
        for at, row in zip(places, found, strict=True):
            if row is not None:
                drawn[at] = draw_few(*row, *asked[at])
    left = [at for at, token in enumerate(drawn) if token is None]
    sizes = [first_read(asked[at][0]) for at in left]
    rows = rankings(blocks, [indices[at] for at in left], sizes)
    again = {at: draw(ranking, *asked[at]) for at, ranking in zip(left, rows, strict=True)}
    return [again[at] if token is None else token for at, token in enumerate(drawn)]


def draw_few(
    values: list[float], ids: list[int], params: SamplingParams, number: float
) -> int | None:
    """`draw` from what top-k has left of a row, by id; None if top-p ends between equal weights.

    Lists of so few numbers are faster than arrays, right behind the model above all: each operator
    of numpy has its own code, none of which is in the processor's cache then.
    """
    peak, temperature = max(values), divisor(params)
    weights = [math.exp((value - peak) / temperature) for value in values]
    top_p, least = known(params.top_p), max(known(params.min_p), _SMALLEST)
    if top_p < 1.0:
        falling = sorted(weights, reverse=True)
        mass = list(accumulate(falling))
        end = bisect_left(mass, top_p * mass[-1]) + 1
        if end < len(falling):
            if falling[end] == falling[end - 1] >= least:
                return None
            least = max(least, falling[end - 1])
    mass = list(accumulate([weight if weight >= least else 0.0 for weight in weights]))
    last = bisect_left(mass, mass[-1])
    return ids[min(bisect_right(mass, number * mass[-1]), last)]


def count_kept(
    weights: NDArray[np.float64], total: float | None, top_p: float, min_p: float
) -> int | None:
    """How many of the best tokens may be drawn; None if that takes more weights than these.

    ``weights`` descend from 1. They are all there are if ``total`` is None, else the largest ones
    and ``total`` is the sum of all. A weight of 0 is never kept.
    """
    if not len(weights):
        return None
    mass = weights.cumsum()
    everything = float(mass[-1]) if total is None else total
    least = max(min_p, _SMALLEST)  # p ≥ min_p · p_max, and possible at all
    kept = int(np.count_nonzero(weights >= least))
    certain = total is None or kept < len(weights)
    if top_p < 1.0 and mass[-1] >= top_p * everything:
        kept, certain = min(kept, int(mass.searchsorted(top_p * everything)) + 1), True
    return kept if certain else None


def place(weights: NDArray[np.float64], number: float) -> int:
    """Where ``number`` in [0, 1) falls on the running sum of positive weights."""
    mass = weights.cumsum()
    return min(int(mass.searchsorted(number * mass[-1], side="right")), len(weights) - 1)


def divisor(params: SamplingParams) -> float:
    """What logits are divided by: the temperature, as far as float32 has it."""
    return min(max(known(params.temperature), _TEMPERATURES[0]), _TEMPERATURES[1])
