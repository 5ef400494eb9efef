"""Which of a row's best tokens may be drawn, and the draw itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from helexa.engine.logit_changes import known
from helexa.engine.ranking import Blocks, Ranking

if TYPE_CHECKING:
    from helexa.engine.params import SamplingParams

FIRST_READ: Final = 128
MARGIN: Final = 32  # read past the k-th token, to see where the tokens equal to it end
_MANY: Final = 4  # from so many rows on, they are drawn together
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

    Rows with top-k that are many are drawn together; what they have read may not suffice for some.
    """
    sizes = [min(first_read(params), blocks.vocab_size) for params, _ in asked]
    values, ids = blocks.top(indices, max(sizes))
    drawn = [-1] * len(indices)
    limited = [at for at, (params, _) in enumerate(asked) if known(params.top_k)]
    if len(limited) >= _MANY:
        some, where = [asked[at] for at in limited], np.array([sizes[at] for at in limited])
        found = draw_many(values[limited], ids[limited], some, where, blocks.vocab_size)
        for at, token in zip(limited, found, strict=True):
            drawn[at] = token
    for at, (params, number) in enumerate(asked):
        if drawn[at] < 0:
            size = sizes[at]
            ranking = Ranking(blocks, indices[at], values[at, :size], ids[at, :size])
            drawn[at] = draw(ranking, params, number)
    return drawn


def draw_many(
    values: NDArray[np.float32],
    ids: NDArray[np.int64],
    asked: Sequence[tuple[SamplingParams, float]],
    sizes: NDArray[np.int64],
    vocab_size: int,
) -> list[int]:
    """`draw` for rows with top-k, bit for bit; -1 where more must be read.

    values and ids [R, n] as `Blocks.top` gives them, of which each row counts only ``sizes``.
    """
    columns = [
        (known(p.top_k), known(p.top_p), max(known(p.min_p), _SMALLEST), divisor(p), number)
        for p, number in asked
    ]
    top_k, top_p, least, temperature, number = np.array(columns).T[:, :, None]  # [R, 1] each
    last = np.take_along_axis(values, sizes[:, None] - 1, -1)
    whole = sizes[:, None] == vocab_size
    count = np.where(whole, sizes[:, None], (values > last).sum(-1, keepdims=True))
    enough = (count >= top_k) | (whole | (last == -np.inf)) & (count > 0)
    values = values[:, : int(top_k.max())]
    column = np.arange(values.shape[1])
    weights = np.exp((values.astype(np.float64) - values[:, :1]) / temperature)
    weights[column >= np.minimum(count, top_k)] = 0.0
    mass = weights.cumsum(-1)
    kept = (weights >= least).sum(-1, keepdims=True)
    nucleus = (mass < top_p * mass[:, -1:]).sum(-1, keepdims=True) + 1
    kept = np.where(top_p < 1.0, np.minimum(kept, nucleus), kept)
    inside = column < kept
    order = np.where(inside, ids[:, : len(column)], vocab_size).argsort(-1)
    mass = np.take_along_axis(np.where(inside, weights, 0.0), order, -1).cumsum(-1)
    at = np.minimum((mass <= number * mass[:, -1:]).sum(-1, keepdims=True), kept - 1)
    place = np.take_along_axis(order, np.maximum(at, 0), -1)
    found = np.where(enough, np.take_along_axis(ids, place, -1), -1)
    tokens: list[int] = found[:, 0].tolist()
    return tokens


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
