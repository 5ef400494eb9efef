"""Rankings are a prefix of the whole order, however far they were read and whatever is equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.ranking import BLOCK, Blocks, in_order, rankings


def ordered(row: Tensor) -> list[int]:
    """Ids by logit, highest first, then by id: the definition."""
    values = row.tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def logits(seed: int, rows: int, vocab_size: int, levels: int) -> Tensor:
    """Random rows; few ``levels`` make many tokens equal, as 16-bit logits do."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randint(0, levels, (rows, vocab_size), generator=generator)
    return grid.float() / 8 - levels / 16


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    vocab_size=st.sampled_from([1, 5, 127, 128, 129, 1000, BLOCK * 40, BLOCK * 40 + 1]),
    levels=st.sampled_from([1, 2, 30, 10**6]),
    count=st.integers(1, 30),
    banned=st.floats(0, 1),
)
def test_a_ranking_is_an_exact_prefix(
    seed: int, vocab_size: int, levels: int, count: int, banned: float
) -> None:
    rows = logits(seed, 2, vocab_size, levels)
    rows[:, : int(banned * (vocab_size - 1))] = -math.inf
    blocks = Blocks.of(rows)
    for row, ranking in zip(rows, rankings(blocks, [0, 1], [count, 2 * count]), strict=True):
        truth = ordered(row)
        while True:
            assert ranking.ids.tolist() == truth[: len(ranking)]
            assert ranking.values.tolist() == row[truth[: len(ranking)]].tolist()
            if ranking.whole:
                break
            ranking.extend()
        assert all(row[i] == -math.inf for i in truth[len(ranking) :])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    chosen=st.lists(st.integers(0, 11), unique=True, min_size=1),
    vocab_size=st.sampled_from([1, 5, 129, 1000, BLOCK * 70 + 1]),
    levels=st.sampled_from([1, 30, 10**6]),
    count=st.integers(1, 30),
    banned=st.floats(0, 1),
)
def test_the_highest_are_the_first_of_the_order_or_unknown(
    seed: int, chosen: list[int], vocab_size: int, levels: int, count: int, banned: float
) -> None:
    rows = logits(seed, 12, vocab_size, levels)
    rows[:, : int(banned * (vocab_size - 1))] = -math.inf
    for index, found in zip(chosen, Blocks.of(rows).highest(chosen, count), strict=True):
        row, order = rows[index].tolist(), ordered(rows[index])
        if found is None:
            some = [value for value in row if value > -math.inf]
            assert len(set(some)) < len(some)  # which of them come first is then by id
        else:
            values, ids = found
            assert values == [row[i] for i in ids]
            assert ids == sorted(ids)
            possible = [i for i in order[:count] if row[i] > -math.inf]
            assert [i for i in ids if row[i] > -math.inf] == sorted(possible)


FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -1.5, math.inf, -math.inf]) | FLOATS, min_size=1))
def test_the_order_is_by_logit_and_then_by_id(row: list[float]) -> None:
    ids = np.arange(len(row))[::-1]
    values, order = in_order(np.array([row], np.float32)[:, ::-1], ids[None])
    assert order[0].tolist() == sorted(range(len(row)), key=lambda i: (-row[i], i))
    assert values[0].tolist() == [row[i] for i in order[0]]


@pytest.mark.parametrize("vocab_size", [3, 128, 129, 5000])
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_best_is_the_lowest_of_the_highest(vocab_size: int, levels: int) -> None:
    rows = logits(vocab_size, 4, vocab_size, levels)
    blocks = Blocks.of(rows)
    assert blocks.best == [ordered(row)[0] for row in rows]
    assert blocks.peaks == [row.max().item() for row in rows]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 127, 128, 999])
def test_a_peak_shows_what_is_not_a_number(bad: float, place: int) -> None:
    rows = torch.zeros(3, 1000)
    rows[1, place] = bad
    peaks = Blocks.of(rows).peaks
    assert [math.isfinite(peak) for peak in peaks] == [True, False, True]


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_mass_is_the_sum_of_the_weights(temperature: float) -> None:
    row = torch.randn(1, 3001, generator=torch.Generator().manual_seed(0)) * 4
    weights = ((row.double() - row.max()) / temperature).exp()
    assert Blocks.of(row).mass(0, temperature) == pytest.approx(weights.sum().item(), rel=1e-6)
