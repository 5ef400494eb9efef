"""What the device guesses, beside what the host draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helexa.engine.ahead.guessing import MOST, Guess, guess_definition, guesses
from helexa.engine.drawing import draw, first_read
from helexa.engine.logit_changes import SampleRow, changed_logits, has_changes
from helexa.engine.params import SamplingParams
from helexa.engine.philox import uniform
from helexa.engine.ranking import Blocks, rankings
from helexa.engine.read_ahead import Asked
from helexa.engine.sampling import Sampler

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PLAIN: dict[str, Any] = {"repetition_penalty": 1.0, "repeat_last_n": 64, "min_p": 0.0}
ALMOST_ONE = 1.0 - 2.0**-53


def params(seed: int = 1, **of: Any) -> SamplingParams:
    return SamplingParams(**{**PLAIN, "seed": seed, "temperature": 1.0, **of})


KINDS = {
    "greedy": {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
    "usual": {"temperature": 0.7, "top_k": 20, "top_p": 0.95},
    "one": {"top_k": 1, "top_p": 1.0},
    "min-p": {"temperature": 1.5, "top_k": 40, "top_p": 0.8, "min_p": 0.1},
    "cold": {"temperature": 1e-30, "top_k": 20, "top_p": 0.9},
    "hot": {"temperature": 30.0, "top_k": 50, "top_p": 0.5},
    "top-p": {"temperature": 0.6, "top_k": 0, "top_p": 0.9},
    "open": {"top_k": 0, "top_p": 1.0},
    "all there are": {"top_k": 300, "top_p": 0.99},
}


def noise(rows: int, size: int, *, levels: int = 0, seed: int = 0) -> Tensor:
    made = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3
    return (made * levels).round() / levels if levels else made


def guessed(logits: Tensor, rows: list[SampleRow], *, kernels: bool) -> list[int] | None:
    """The guess for each row, in reverse order of the rows."""
    changed = [i for i, row in enumerate(rows) if has_changes(row)]
    raw = Asked(logits.to(DEVICE), kernels=kernels)
    sets, homes = [raw], [(raw, i) for i in range(len(rows))]
    if changed:
        altered = Asked(changed_logits(logits.to(DEVICE), rows, changed), kernels=kernels)
        sets.append(altered)
        for at, i in enumerate(changed):
            homes[i] = altered, at
    for (home, at), row in zip(homes, rows, strict=True):
        home.ask(at, row)
    for one in sets:
        one.compute()
    triples = [(*home, row) for home, row in zip(homes, rows, strict=True)]
    found = guesses(triples[::-1])
    return None if found is None else found.tolist()[::-1]


@pytest.mark.parametrize("kernels", [False, True], ids=["by torch", "by kernels"])
@pytest.mark.parametrize("levels", [0, 2], ids=["distinct", "many equal"])
@pytest.mark.parametrize("size", [30, 300, 1280])
def test_guesses_are_what_the_host_draws(size: int, levels: int, kernels: bool) -> None:
    """A batch of all kinds. Only where weights are equal at an end may one be another."""
    if kernels:
        pytest.importorskip("triton", reason="there is no triton for this machine")
        if size > 30 and DEVICE.type == "cpu":
            pytest.skip("sorting takes triton's interpreter long")
    wrong = total = 0
    for seed in range(2 if kernels else 12):
        logits = noise(2 * len(KINDS), size, levels=levels, seed=seed)
        rows = [
            SampleRow(params(31 * seed + at, **kind), [5, 7, 9][: (seed + at) % 4])
            for at, kind in enumerate([*KINDS.values()] * 2)
        ]
        for at in range(0, len(rows), 5):  # some change their logits
            rows[at] = SampleRow(rows[at].params, rows[at].generated, blocked=(3, 4))
        expected = [one.token_id for one in Sampler(size).sample(logits, rows)]
        found = guessed(logits, rows, kernels=kernels)
        assert found is not None
        wrong += sum(mine != theirs for mine, theirs in zip(found, expected, strict=True))
        total += len(rows)
    assert wrong == 0 if not levels else wrong <= total // 50


@pytest.mark.parametrize("kernels", [False, True], ids=["by torch", "by kernels"])
@pytest.mark.parametrize("count", [1, 13, 52, 128, MOST])
def test_a_draw_from_tokens_in_any_order(count: int, kernels: bool) -> None:
    if kernels and count > 52 and DEVICE.type == "cpu":
        pytest.skip("sorting takes triton's interpreter long")
    vocab, rows = 4000, 4
    logits = noise(rows, vocab, seed=count)
    logits[1, 100:] = -math.inf  # there are fewer than are looked at
    blocks = Blocks.of(logits)
    values, ids = blocks.unordered_top(range(rows), count)
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    values, ids = values[:, mixed], ids[:, mixed]
    asked, expected = [], []
    for at, number in enumerate((0.0, ALMOST_ONE, *(uniform(3, i) for i in range(8)))):
        row, top_k = at % rows, max(1, count - 1 - at % 3)
        kind = params(temperature=0.5 + at, top_k=top_k, top_p=(0.3, 0.9, 1.0)[at % 3])
        expected.append(draw(rankings(blocks, [row], [first_read(kind)])[0], kind, number))
        asked.append(Guess(row, kind.temperature, top_k, kind.top_p, 0.0, number, -1))
    found = by(kernels)(values.to(DEVICE), ids.to(DEVICE), torch.empty(0, device=DEVICE), asked)
    assert found.tolist() == expected


def by(kernels: bool) -> Any:
    if not kernels:
        return guess_definition
    pytest.importorskip("triton", reason="there is no triton for this machine")
    from helexa.engine.kernels.guess_triton import guess_by_kernel

    return guess_by_kernel


@pytest.mark.parametrize("kernels", [False, True], ids=["by torch", "by kernels"])
def test_rows_without_a_choice_get_some_token_of_the_vocabulary(kernels: bool) -> None:
    """They get an error when the host has read them; until then the model runs with the guess."""
    if kernels:
        pytest.importorskip("triton", reason="there is no triton for this machine")
    kinds = [*KINDS.values()]
    for bad in (math.nan, math.inf, -math.inf):
        logits = noise(len(kinds), 20)  # of which a block has more
        logits[:, 7] = bad
        if bad == -math.inf:
            logits[:] = bad
        found = guessed(logits, [SampleRow(params(**kind)) for kind in kinds], kernels=kernels)
        assert found is not None
        assert all(0 <= token < 20 for token in found)


def test_more_tokens_than_are_looked_at_are_not_guessed() -> None:
    row = SampleRow(params(top_k=MOST, top_p=1.0))
    assert guessed(noise(1, 2000), [row], kernels=False) is None
