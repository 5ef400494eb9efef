"""What formats cost: how far a quantised model's expectations are from those of its weights."""

from __future__ import annotations

import pytest

from benchmarks.formats import FORMATS, Quality, held_out, measure

ERRORS = {
    "f32": 0.0,
    "bf16": 0.002,
    "f16": 0.0003,
    "q8_0": 0.006,
    "q6_k": 0.02,
    "q5_k": 0.04,
    "q5_0": 0.045,
    "q4_k": 0.08,
    "q4_0": 0.09,
}
"""The largest relative error of a format on normally distributed weights."""
GROWTH = 6.0
"""To second order a divergence grows with the square of the error; for this model it is 4.3 times
that square in every format, which the bound lets grow by 40 %."""
LEAST = 1e-6
PERPLEXITY = 1.003


@pytest.fixture(scope="module")
def found() -> dict[str, Quality]:
    return {quality.format: quality for quality in measure(FORMATS, held_out(3))}


@pytest.mark.parametrize("format", FORMATS)
def test_divergence_is_bounded_by_the_square_of_the_error(
    format: str, found: dict[str, Quality]
) -> None:
    quality = found[format]
    assert quality.divergence <= max(LEAST, GROWTH * ERRORS[format] ** 2)
    assert quality.ratio < PERPLEXITY


def test_fewer_bits_cost_more(found: dict[str, Quality]) -> None:
    order = ["f32", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"]
    divergences = [found[format].divergence for format in order]
    assert divergences == sorted(divergences) and divergences[1] > 1e-5
