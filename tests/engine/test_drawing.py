"""The filters and the draw, against the definitions written out, and against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from helexa.engine.drawing import (
    count_kept,
    draw,
    draw_open,
    draw_ranked,
    first_read,
    needs_ranking,
)
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.philox import uniform
from helexa.engine.ranking import Blocks, Ranking, rankings

ALMOST_ONE = 1.0 - 2.0**-53


def settled(vocab_size: int, **params: Any) -> SamplingParams:
    return resolve(SamplingParams(**params), GenerationDefaults(), vocab_size)


def ranked(row: Tensor, params: SamplingParams) -> Ranking:
    return rankings(Blocks.of(row[None]), [0], [first_read(params)])[0]


def drawn(row: Tensor, number: float, **params: Any) -> int:
    resolved = settled(len(row), **params)
    if not needs_ranking(resolved):
        return draw_open(Blocks.of(row[None]), 0, resolved, number)
    return draw(ranked(row, resolved), resolved, number)


def kept_by_definition(row: list[float], params: SamplingParams) -> list[tuple[int, float]]:
    """Slow and plain: (id, weight) of the tokens that may be drawn, by id."""
    temperature, top_k, top_p, min_p = (
        params.temperature or 0.0,
        params.top_k or 0,
        params.top_p or 1.0,
        params.min_p or 0.0,
    )
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[: top_k or None]
    weights = [math.exp((row[i] - max(row)) / temperature) for i in order]
    total = math.fsum(weights)
    assume(all(abs(w - min_p) > 1e-6 for w in weights if min_p))
    kept, mass = [], 0.0
    for i, weight in zip(order, weights, strict=True):
        if top_p < 1.0 and mass >= top_p:
            break
        mass += weight / total
        assume(top_p >= 1.0 or abs(mass - top_p) > 1e-5)  # no luck of rounding in this test
        kept.append((i, weight))
    return sorted((i, weight) for i, weight in kept if weight >= min_p and weight > 0.0)


FILTER_PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 3),
        "top_k": st.sampled_from([0, 1, 2, 20, 200]),
        "top_p": st.sampled_from([1.0, 0.0001, 0.3, 0.9, 0.999]),
        "min_p": st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    }
)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    vocab_size=st.sampled_from([1, 2, 7, 130, 3000]),
    levels=st.sampled_from([2, 40, 10**6]),
    given=FILTER_PARAMS,
    number=st.floats(0, 1, exclude_max=True),
)
def test_draws_are_those_of_the_definition(
    seed: int, vocab_size: int, levels: int, given: dict[str, Any], number: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(0, levels, (vocab_size,), generator=generator) * (8.0 / levels)
    kept = kept_by_definition(row.tolist(), settled(vocab_size, **given))
    token = drawn(row, number, **given)
    place = [i for i, _ in kept].index(token)
    before = math.fsum(weight for _, weight in kept[:place])
    total = math.fsum(weight for _, weight in kept)
    slack = 1e-5 * total
    assert before - slack <= number * total <= before + kept[place][1] + slack


def hf_kept(row: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """What transformers leaves of a row."""
    ids, scores = torch.zeros(1, 0, dtype=torch.long), row[None]
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1.0 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    for warper in warpers:
        scores = warper(ids, scores)
    return set(scores[0].isfinite().nonzero().flatten().tolist())


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("top_k", [0, 1, 20])
@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.95])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_kept_sets_are_those_of_transformers(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    row = torch.randn(2000, generator=torch.Generator().manual_seed(top_k)) * 3
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    kept = hf_kept(row, **given)
    order = row.argsort(descending=True, stable=True).tolist()
    assert set(order[: len(kept)]) == kept
    # The first number of all falls on the lowest id kept, the last one on the highest.
    assert drawn(row, 0.0, **given) == min(kept)
    assert drawn(row, ALMOST_ONE, **given) == max(kept)
    assert {drawn(row, uniform(4, i), **given) for i in range(30)} <= kept


PROBABILITIES = [0.5, 0.25, 0.15, 0.07, 0.03]
FILTERS = [
    ("off", {}, 5),
    ("k", {"top_k": 2}, 2),
    ("p", {"top_p": 0.8}, 3),
    ("p crossed exactly in the middle of a token", {"top_p": 0.51}, 2),
    ("k then p renormalised", {"top_k": 3, "top_p": 0.8}, 2),
    ("min_p", {"min_p": 0.2}, 3),
    ("min_p 1", {"min_p": 1.0}, 1),
    ("k 1", {"top_k": 1}, 1),
    ("p 0.0001", {"top_p": 0.0001}, 1),
    ("all", {"top_k": 4, "top_p": 0.9, "min_p": 0.4}, 2),
]


@pytest.mark.parametrize(("params", "kept"), [c[1:] for c in FILTERS], ids=[c[0] for c in FILTERS])
def test_e063_filters(params: dict[str, Any], kept: int) -> None:
    row = torch.tensor(PROBABILITIES).log()
    numbers = [0.0, ALMOST_ONE, *(uniform(1, i) for i in range(400))]
    seen = {drawn(row, number, temperature=1.0, **params) for number in numbers}
    assert seen == set(range(kept))


def test_e063_top_k_prefers_lower_ids_among_equals() -> None:
    row = torch.zeros(5000)
    row[4321] = 1.0
    seen = {drawn(row, uniform(2, i), temperature=1.0, top_k=3) for i in range(60)}
    assert seen == {4321, 0, 1}


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1e308])
def test_extreme_temperatures(temperature: float) -> None:
    row = torch.tensor([1.0, 3.0, -math.inf, 3.0])
    seen = {drawn(row, uniform(3, i), temperature=temperature) for i in range(100)}
    assert seen == ({1, 3} if temperature < 1 else {0, 1, 3})


def test_impossible_tokens_are_never_drawn() -> None:
    row = torch.full((3000,), -math.inf)
    row[[5, 2999]] = torch.tensor([0.0, -1.0])
    for params in ({}, {"top_k": 20}, {"top_p": 0.99}):
        assert drawn(row, ALMOST_ONE, temperature=1.0, **params) == 2999


@settings(max_examples=100, deadline=None)
@given(
    logs=st.lists(st.floats(-30, 0), min_size=1, max_size=60),
    size=st.integers(1, 60),
    top_p=st.sampled_from([0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05]),
)
def test_fewer_weights_give_the_same_count_or_none(
    logs: list[float], size: int, top_p: float, min_p: float
) -> None:
    weights = torch.tensor([0.0, *logs], dtype=torch.float64).exp().sort(descending=True)[0].numpy()
    whole = count_kept(weights, None, top_p, min_p)
    part = count_kept(weights[:size], float(weights.cumsum()[-1]), top_p, min_p)
    assert whole is not None
    assert part in (whole, None)


@pytest.mark.parametrize(("over", "total"), [("indices", 100_000), ("seeds", 10_000)])
def test_e066_distribution(over: str, total: int) -> None:
    """Draws of five tokens: χ² with 4 degrees of freedom stays below its 0.999 quantile."""
    params = settled(5, temperature=1.0)
    blocks = Blocks.of(torch.tensor(PROBABILITIES).log()[None])
    counts = [0] * 5
    for i in range(total):
        number = uniform(7, i) if over == "indices" else uniform(i, 0)
        counts[draw_open(blocks, 0, params, number)] += 1
    expected = [p * total for p in PROBABILITIES]
    chi_square = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert chi_square < 18.467


def test_nearly_equal_logits_may_change_places_without_changing_the_draw() -> None:
    """Batching rounds logits differently; a draw must not turn on which of two is a hair larger."""
    row = torch.randn(500, generator=torch.Generator().manual_seed(5)) * 0.01
    nudged = row + torch.randn(500, generator=torch.Generator().manual_seed(6)) * 1e-6
    assert row.argsort().tolist() != nudged.argsort().tolist()
    for params in ({}, {"top_p": 0.999}, {"top_k": 499}, {"min_p": 0.001}):
        for i in range(200):
            number = uniform(9, i)
            same = drawn(row, number, temperature=1.0, **params)
            assert drawn(nudged, number, temperature=1.0, **params) == same


WAY = st.fixed_dictionaries(
    {
        "top_k": st.integers(0, 60),
        "top_p": st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.01, 0.3, 1.0]),
        "temperature": st.sampled_from([1e-3, 0.3, 1.0, 4.0]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    ways=st.lists(st.tuples(WAY, st.floats(0, ALMOST_ONE)), min_size=4, max_size=9),
    vocab_size=st.sampled_from([1, 5, 70, 200, 5000]),
    levels=st.sampled_from([1, 2, 30, 10**6]),
    banned=st.floats(0, 1),
)
def test_rows_drawn_together_get_what_they_get_alone(
    ways: list[tuple[dict[str, Any], float]], vocab_size: int, levels: int, banned: float
) -> None:
    noise = torch.Generator().manual_seed(len(ways) + levels)
    logits = torch.randint(0, levels, (len(ways), vocab_size), generator=noise) / 8 - levels / 16
    logits[1::2, 1 : 1 + int(banned * (vocab_size - 1))] = -math.inf
    blocks, indices = Blocks.of(logits), list(range(len(ways)))
    asked = [(settled(vocab_size, **way), number) for way, number in ways]
    alone = [draw(ranked(row, p), p, n) for row, (p, n) in zip(logits, asked, strict=True)]
    assert draw_ranked(blocks, indices, asked) == alone
