"""Which of a row's best tokens may be drawn, and the draw itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from helexa.engine.logit_changes import known

if TYPE_CHECKING:
    from helexa.engine.params import SamplingParams
    from helexa.engine.ranking import Ranking

FIRST_READ: Final = 128
MARGIN: Final = 32  # read past the k-th token, to see where the tokens equal to it end
_TEMPERATURES: Final = (1e-30, 1e30)  # what float32 can divide by
_SMALLEST: Final = math.ulp(0.0)


def first_read(params: SamplingParams) -> int:
    """How many of its best tokens a row probably needs: a function of its own params alone."""
    top_k = known(params.top_k)
    return top_k + MARGIN if top_k else FIRST_READ


def draw(ranking: Ranking, params: SamplingParams, number: float) -> int:
    """The token id that ``number`` in [0, 1) falls on after top-k, top-p of what is left, min-p.

    Weights are float64, relative to the best token's. Cumulative mass and the inverse CDF both run
    from the best token to the worst. Source: Holtzman et al., arXiv:1904.09751 (top-p); Nguyen et
    al., arXiv:2407.01082 (min-p); order and renormalising as in transformers.
    """
    temperature = min(max(known(params.temperature), _TEMPERATURES[0]), _TEMPERATURES[1])
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
        place = pick(weights, total, top_p, min_p, number)
        if place is not None:
            return int(ranking.ids[place])
        ranking.extend()


def pick(
    weights: NDArray[np.float64], total: float | None, top_p: float, min_p: float, number: float
) -> int | None:
    """The place ``number`` in [0, 1) falls on; None if that takes more weights than these.

    ``weights`` descend from 1. They are all there are if ``total`` is None, else the largest ones
    and ``total`` is the sum of all. A weight of 0 is never picked.
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
    filtered = top_p < 1.0 or min_p > 0.0
    if not certain and (filtered or mass[-1] <= number * everything):
        return None
    target = number * (float(mass[kept - 1]) if filtered or certain else everything)
    return min(int(mass.searchsorted(target, side="right")), kept - 1)
