"""Which of a row's best tokens may be drawn, and the draw itself."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import neg
from typing import TYPE_CHECKING, Final

from helexa.engine.logit_changes import known
from helexa.engine.philox import uniform

if TYPE_CHECKING:
    from helexa.engine.logit_changes import SampleRow
    from helexa.engine.params import SamplingParams
    from helexa.engine.ranking import Ranking

FIRST_READ: Final = 128
MARGIN: Final = 32  # read past the k-th token, to see where the tokens equal to it end
_TEMPERATURES: Final = (1e-30, 1e30)  # what float32 can divide by


def first_read(params: SamplingParams) -> int:
    """How many of its best tokens a row probably needs: a function of its own params alone."""
    top_k = known(params.top_k)
    return top_k + MARGIN if top_k else FIRST_READ


def draw(ranking: Ranking, row: SampleRow) -> int:
    """Draw a token id: top-k, then top-p of what that leaves, then min-p, then one uniform number.

    Weights are doubles, relative to the best token's. Cumulative mass and the inverse CDF both run
    from the best token to the worst. Source: Holtzman et al., arXiv:1904.09751 (top-p); Nguyen et
    al., arXiv:2407.01082 (min-p); order and renormalising as in transformers.
    """
    params = row.params
    number = uniform(known(params.seed), len(row.generated))
    temperature = min(max(known(params.temperature), _TEMPERATURES[0]), _TEMPERATURES[1])
    top_k, top_p, min_p = known(params.top_k), known(params.top_p), known(params.min_p)
    while top_k and len(ranking) < top_k and not ranking.whole:
        ranking.extend()
    total = 0.0 if top_k else ranking.mass(temperature)
    while True:
        size = top_k or len(ranking)
        weights = [math.exp((v - ranking.peak) / temperature) for v in ranking.values[:size]]
        whole = top_k > 0 or ranking.whole
        place = pick(weights, None if whole else total, top_p, min_p, number)
        if place is not None:
            return ranking.ids[place]
        ranking.extend()


def pick(
    weights: Sequence[float], total: float | None, top_p: float, min_p: float, number: float
) -> int | None:
    """The place ``number`` in [0, 1) falls on; None if that takes more weights than these.

    ``weights`` descend from 1. They are all there are if ``total`` is None, else the largest ones
    and ``total`` is the sum of all. A weight of 0 is never picked.
    """
    if not weights:
        return None
    mass = list(accumulate(weights))
    whole = mass[-1] if total is None else total
    least = max(min_p, math.ulp(0.0))  # p ≥ min_p · p_max, and possible at all
    kept = bisect_right(weights, -least, key=neg)
    certain = total is None or kept < len(weights)
    if top_p < 1.0 and mass[-1] >= top_p * whole:
        kept, certain = min(kept, bisect_left(mass, top_p * whole) + 1), True
    filtered = top_p < 1.0 or min_p > 0.0
    if not certain and (filtered or mass[-1] <= number * whole):
        return None
    target = number * (mass[kept - 1] if filtered or certain else whole)
    return min(bisect_right(mass, target), kept - 1)
