"""The kernels that choosing tokens takes, against `ranking`'s definitions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from helexa.engine.philox import uniform
from helexa.engine.ranking import BLOCK, Blocks, best_of, cut

if TYPE_CHECKING:
    from torch import Tensor

pytest.importorskip("triton", reason="there is no triton for this machine")

from helexa.engine.kernels import choosing_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ALMOST_ONE = 1.0 - 2.0**-53


def noise(rows: int, size: int, *, levels: int = 0) -> Tensor:
    made = torch.randn(rows, size, generator=torch.Generator().manual_seed(size)) * 3
    return (made * levels).round() / levels if levels else made


def found(logits: Tensor, drawn: list[choosing_triton.Drawn]) -> tuple[list[float], list[int]]:
    """Masses and ids, by the kernels."""
    rows, maxima = cut(logits.to(DEVICE))
    peaks = choosing_triton.best_on_device(rows, maxima)[0]
    masses, ids = choosing_triton.draw_by_kernel(rows, peaks, drawn).tolist()
    return masses, [int(i) for i in ids]


def test_blocks_are_as_large() -> None:
    assert choosing_triton.BLOCK.value == BLOCK


@pytest.mark.parametrize("size", [1, 127, 128, 1000, 128 * 40])
@pytest.mark.parametrize("levels", [0, 1], ids=["distinct", "many equal"])
def test_best(size: int, levels: int) -> None:
    logits = noise(6, size, levels=levels)
    logits[1, size // 2] = math.inf
    logits[2] = -math.inf
    logits[3, -1] = math.nan
    rows, maxima = cut(logits.to(DEVICE))
    peaks, best = choosing_triton.best_on_device(rows, maxima)
    torch.testing.assert_close(peaks.float(), maxima.amax(-1), equal_nan=True, rtol=0, atol=0)
    sound = [0, 1, 2, 4, 5]
    assert best[sound].tolist() == best_of(rows, maxima)[sound].tolist()
    assert 0 <= best[3] < rows.shape[1] * BLOCK


@pytest.mark.parametrize("size", [1, 130, 128 * 40])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("temperature", [1e-30, 0.3, 1.0, 20.0])
def test_draws_are_those_of_the_definition(size: int, min_p: float, temperature: float) -> None:
    logits = noise(3, size, levels=4)
    logits[1, size // 3 : size // 2] = -math.inf
    numbers = [0.0, ALMOST_ONE, *(uniform(7, i) for i in range(10))]
    drawn = [
        choosing_triton.Drawn(at % 3, temperature, min_p, number)
        for at, number in enumerate(numbers * 3)
    ]
    blocks = Blocks.of(logits)
    expected = [blocks.draw(*one) for one in drawn]
    masses, ids = found(logits, drawn)
    assert ids == expected
    if not min_p:
        by_definition = [blocks.mass(one.row, temperature) for one in drawn]
        assert masses == pytest.approx(by_definition, rel=1e-6)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((1, 3000), -math.inf)
    logits[0, [5, 2999]] = torch.tensor([0.0, -1.0])
    drawn = [choosing_triton.Drawn(0, 1.0, 0.0, number) for number in (0.0, 0.73, 0.74, ALMOST_ONE)]
    assert found(logits, drawn)[1] == [5, 5, 2999, 2999]


def test_rows_without_a_choice_harm_nobody() -> None:
    logits = noise(4, 300)
    logits[0, 3], logits[1, 4], logits[2] = math.nan, math.inf, -math.inf
    drawn = [choosing_triton.Drawn(row, 0.7, 0.1, 0.5) for row in range(4)]
    _, ids = found(logits, drawn)
    assert all(0 <= i < 384 for i in ids)
    assert ids[3] == Blocks.of(logits[3:]).draw(0, 0.7, 0.1, 0.5)


def test_a_row_gets_what_it_gets_alone() -> None:
    logits = noise(5, 128 * 33)
    drawn = [choosing_triton.Drawn(row, 0.9, 0.0, uniform(row, 1)) for row in range(5)]
    masses, ids = found(logits, drawn)
    for row, one in enumerate(drawn):
        alone = found(logits[row : row + 1], [one._replace(row=0)])
        assert alone == ([masses[row]], [ids[row]])
