"""What formats cost: how far a quantised model's expectations are from those of its weights."""

from __future__ import annotations

import math

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
    "fp8": 0.03,
    "awq": 0.105,
    "gptq 4-bit": 0.105,
    "gptq 8-bit": 0.0065,
    "compressed int4": 0.115,
    "compressed int8": 0.008,
    "q5_1": 0.042,
    "q4_1": 0.085,
    "q3_k": 0.18,
    "q2_k": 0.37,
}
"""The largest relative error of a format: on normally distributed weights, and 5 % for others.

Those that are rounded between the extremes of n numbers are off by range / levels / √12. The range
of 128 numbers is 5.2 standard deviations; where the levels lie evenly around 0 it is twice the
largest of 128 (2.8) or of up to 512 (3.25); of 32 numbers it is 4.1. e4m3 has steps of an eighth of
the power of two below a number, which is then off by 2.5 % of itself."""
GROWTH = 6.0
"""To second order a divergence grows with the square of the error; for this model it is 4 to 5
times that square in every format, which the bound lets grow by a quarter."""
LEAST = 1e-6
ANSWERS, CHANCE = 0.1, 0.003
"""Of answers the model is surer than of all else: their loss rises by no more than this part of
what the divergence may be, or by what so few tokens leave to chance."""


@pytest.fixture(scope="module")
def found() -> dict[str, Quality]:
    return {quality.format: quality for quality in measure(FORMATS, held_out(3))}


@pytest.mark.parametrize("format", FORMATS)
def test_divergence_is_bounded_by_the_square_of_the_error(
    format: str, found: dict[str, Quality]
) -> None:
    quality = found[format]
    assert quality.error <= ERRORS[format]
    assert quality.divergence <= max(LEAST, GROWTH * quality.error**2)
    assert math.log(quality.ratio) < max(CHANCE, ANSWERS * GROWTH * ERRORS[format] ** 2)


@pytest.mark.parametrize(
    "order",
    [
        ["f32", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"],
        ["f32", "gptq 8-bit", "fp8", "gptq 4-bit"],
        ["compressed int8", "compressed int4"],
        ["q5_1", "q4_1", "q3_k", "q2_k"],
    ],
    ids=lambda order: order[-1],
)
def test_fewer_bits_cost_more(order: list[str], found: dict[str, Quality]) -> None:
    divergences = [found[format].divergence for format in order]
    assert divergences == sorted(divergences) and divergences[1] > 1e-5


def test_two_layouts_of_the_same_integers_are_one_model(found: dict[str, Quality]) -> None:
    one, other = found["awq"], found["gptq 4-bit"]
    assert one.error == pytest.approx(other.error, rel=1e-6)
    assert one.divergence == pytest.approx(other.divergence, rel=1e-3)
