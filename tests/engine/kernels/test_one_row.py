"""Products of one row with what is around them: kernels against definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.one_row import added_product_definition, normed_product_definition
from helexa.engine.kernels.rms_norm import norm_constants

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPSILON = {torch.float32: 2**-18, torch.float16: 2**-9, torch.bfloat16: 2**-5}
"""Triton's interpreter cuts bfloat16 where others round."""
SHAPES = [(16, 8), (33, 127), (2, 4100), (70, 600)]


@pytest.fixture(scope="module", autouse=True)
def triton() -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def close(ours: Tensor, expected: Tensor) -> bool:
    error = (ours.float() - expected.float()).abs().amax()
    same = (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    return same and bool(error <= EPSILON[ours.dtype] * expected.abs().amax().float())


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normed_products(shape: tuple[int, int], gated: bool, dtype: torch.dtype) -> None:
    from helexa.engine.kernels.one_row_triton import normed_product

    outputs, inputs = shape
    x = drawn(1, inputs, dtype=dtype) * 5
    weight = drawn(2 * outputs if gated else outputs, inputs, dtype=dtype) / inputs**0.5
    norm = norm_constants(drawn(inputs, dtype=torch.float32, seed=1), 1e-6)
    expected = normed_product_definition(x, norm, weight, gated=gated)
    assert close(normed_product(x, norm, weight, gated=gated), expected)
    assert expected.shape == (1, outputs)


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_added_products(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from helexa.engine.kernels.one_row_triton import added_product

    x, weight = drawn(1, shape[1], dtype=dtype), drawn(*shape, dtype=dtype) / shape[1] ** 0.5
    before = drawn(1, shape[0], dtype=dtype, seed=2)
    streams = before.clone(), before.clone()
    added_product(x, weight, streams[0])
    added_product_definition(x, weight, streams[1])
    assert close(*streams)
    assert not torch.equal(streams[0], before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_division_of_work(shape: tuple[int, int]) -> None:
    from helexa.engine.kernels.one_row_triton import PROGRAMS, TILE, tiles_of

    tiles = tiles_of(torch.empty(shape), DEVICE)
    assert tiles.columns * tiles.depth <= TILE
    assert tiles.whole >= shape[1]
    assert tiles.columns == 1 or shape[0] >= tiles.columns * PROGRAMS
