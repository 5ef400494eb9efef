"""Products with 16-bit matrices on a CPU against the plain product."""

from __future__ import annotations

import pytest
import torch

from helexa.engine.kernels.matvec import (
    Scratch,
    expanded_product,
    one_row_product,
    product_definition,
)
from helexa.engine.kernels.packed import can_pack, pack, packed_product, unpack

SIZES = [(64, 1), (64, 33), (192, 127), (1030, 640)]
HALVES = [torch.float16, torch.bfloat16]
needs_fbgemm = pytest.mark.skipif(not can_pack(), reason="torch has no FBGEMM here")


def draw(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(outputs + inputs)
    x = torch.randn(rows, inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator).to(dtype)


def close(ours: torch.Tensor, expected: torch.Tensor, bits: int) -> bool:
    """Whether the error is within a few units of a format with so many bits."""
    scale = expected.abs().amax(-1, keepdim=True)
    return bool(((ours - expected).abs() <= 4 * scale * 2.0**-bits).all())


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_expanding_is_exact(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    x, weight = draw(rows, outputs, inputs, dtype)
    expected = product_definition(x, weight)
    assert close(expanded_product(x, weight, Scratch()), expected, 20)


@needs_fbgemm
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 17])
def test_packed_float16_is_exact(rows: int, outputs: int, inputs: int) -> None:
    x, weight = draw(rows, outputs, inputs, torch.float16)
    packed = pack(weight.float())
    assert torch.equal(unpack(packed), weight.float())
    ours = packed_product(x, packed)
    assert ours.shape == (rows, outputs)
    assert not rows or close(ours, product_definition(x, weight), 19)


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_one_row_rounds_to_float16(outputs: int, inputs: int) -> None:
    x, weight = draw(1, outputs, inputs, torch.float16)
    assert close(one_row_product(x, weight), product_definition(x, weight), 11)


@needs_fbgemm
@pytest.mark.parametrize("factor", [0.0, 1e-18, 1e6, 1e17])
def test_any_scale_of_activations_is_taken(factor: float) -> None:
    """Float16 alone would flush or overflow all of these."""
    x, weight = draw(2, 128, 96, torch.float16)
    x[0] *= factor
    expected = product_definition(x, weight)
    assert close(packed_product(x, pack(weight.float())), expected, 19)
    assert close(one_row_product(x[:1], weight), expected[:1], 11)


@needs_fbgemm
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_its_row(bad: float) -> None:
    x, weight = draw(2, 64, 32, torch.float16)
    x[0, 3] = bad
    ours = packed_product(x, pack(weight.float()))
    assert not ours[0].isfinite().any()
    assert ours[1].isfinite().all()
    assert not one_row_product(x[:1], weight).isfinite().any()


def test_scratch_is_reused_across_shapes() -> None:
    scratch = Scratch()
    for outputs, inputs in [(64, 33), (640, 100), (64, 640), (64, 33)]:
        x, weight = draw(3, outputs, inputs, torch.float16)
        ours = expanded_product(x, weight, scratch)
        assert close(ours, product_definition(x, weight), 20)
