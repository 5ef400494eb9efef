"""Quantising: how much is lost, what the `gguf` package reads, and that threads change nothing."""

from __future__ import annotations

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from helexa.engine.quant.blocks.fit import fit_affine, fit_symmetric, halved_sum
from helexa.engine.quant.blocks.types import BLOCK_TYPES

BOUNDS = {
    "Q8_0": 0.006,
    "Q6_K": 0.02,
    "Q5_K": 0.04,
    "Q5_1": 0.04,
    "Q5_0": 0.045,
    "Q4_K": 0.08,
    "Q4_1": 0.08,
    "Q4_0": 0.09,
}
"""The most that may be lost of N(0, 1), as relative root mean square."""


def drawn(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))


def loss(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("rows", "columns"), [(8, 512), (64, 1024), (256, 4096)])
@pytest.mark.parametrize("name", BOUNDS)
def test_e033_loss(name: str, rows: int, columns: int) -> None:
    type, values = BLOCK_TYPES[name], drawn(rows, columns)
    blocks = type.rows(values)
    assert blocks.shape == (rows, type.row_bytes(columns))
    read = gguf.quants.dequantize(blocks.numpy(), GGMLQuantizationType[name])
    assert loss(torch.from_numpy(read), values) <= BOUNDS[name]


@pytest.mark.parametrize("name", BOUNDS)
def test_e033_threads_and_neighbours_change_nothing(name: str) -> None:
    type, values, before = BLOCK_TYPES[name], drawn(256, 2048), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 8):
            torch.set_num_threads(threads)
            found.append(type.rows(values))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    assert torch.equal(type.rows(values[5:6].clone()), found[0][5:6])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_no_worse_than_rounding_between_the_extremes(name: str) -> None:
    values = drawn(64, 1024)
    plain = gguf.quants.quantize(values.numpy(), GGMLQuantizationType[name])
    there = torch.from_numpy(gguf.quants.dequantize(plain, GGMLQuantizationType[name]))
    type = BLOCK_TYPES[name]
    assert loss(type.matrix(type.rows(values)), values) < 0.97 * loss(there, values)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.01, -3e4])
def test_equal_numbers(name: str, value: float) -> None:
    type = BLOCK_TYPES[name]
    values = torch.full((2, type.elements), value)
    assert torch.allclose(type.matrix(type.rows(values)), values, rtol=0.01)


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_small_numbers_do_not_vanish_with_their_scale(name: str) -> None:
    type, values = BLOCK_TYPES[name], drawn(1, 1024) * 2e-4
    assert loss(type.matrix(type.rows(values)), values) < 1.5 * BOUNDS[name]


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_beyond_float16_stay_finite(name: str) -> None:
    type = BLOCK_TYPES[name]
    values = drawn(1, 2 * type.elements) * 1e30
    assert type.matrix(type.rows(values)).isfinite().all()


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_groups_of_very_different_size(name: str) -> None:
    """One outlier coarsens the scale of its own group, the other groups stay well described."""
    type, values = BLOCK_TYPES[name], drawn(1, 256) * 0.1
    values[0, 3] = 2.0
    rest = slice(32, None)
    lost = loss(type.matrix(type.rows(values))[:, rest], values[:, rest])
    assert lost < 2.5 * BOUNDS[name]


def test_types_that_are_only_read_say_so() -> None:
    with pytest.raises(TypeError, match="Q2_K"):
        BLOCK_TYPES["Q2_K"].rows(drawn(1, 256))


def test_halved_sum() -> None:
    x = torch.arange(64.0).view(16, 4)
    assert torch.equal(halved_sum(x), x.sum(0))


def test_fits_find_what_was_there() -> None:
    q = torch.arange(16.0).view(16, 1).repeat(2, 1)
    scale, offset = fit_affine(0.25 * q - 1.5, 15)
    assert scale.item() == pytest.approx(0.25)
    assert offset.item() == pytest.approx(-1.5)
    assert fit_symmetric(-0.5 * (q - 8), -8).item() == pytest.approx(-0.5)
