"""Products with 16-bit matrices on a CPU against the plain product, rows and panels."""

from __future__ import annotations

import pytest
import torch

from helexa.engine.kernels.matvec import (
    Scratch,
    expanded_product,
    one_row_product,
    product_definition,
)
from helexa.engine.kernels.panels import (
    expanded_panel_product,
    pack,
    panel_rows,
    summed_product,
    unpack,
)

SIZES = [(64, 1), (64, 33), (192, 127), (1024, 640)]
HALVES = [torch.float16, torch.bfloat16]


def draw(rows: int, outputs: int, inputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(outputs + inputs)
    x = torch.randn(rows, inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator).to(dtype)


def packed(matrix: torch.Tensor) -> torch.Tensor:
    panels = torch.empty(len(matrix) // 64, matrix.shape[1], 64, dtype=matrix.dtype)
    pack(matrix, panels)
    return panels


def summed(x: torch.Tensor, panels: torch.Tensor, scratch: Scratch | None = None) -> torch.Tensor:
    bags = (scratch or Scratch()).bags(*panels.shape[:2], panels.dtype)
    return torch.cat([summed_product(row, panels, bags) for row in x.split(1)])


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
    scratch = Scratch()
    assert close(expanded_product(x, weight, scratch), expected, 20)
    assert close(expanded_panel_product(x, packed(weight), scratch), expected, 20)


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_one_row_rounds_to_float16(outputs: int, inputs: int) -> None:
    x, weight = draw(1, outputs, inputs, torch.float16)
    assert close(one_row_product(x, weight), product_definition(x, weight), 11)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_sums_round_to_the_panels(
    rows: int, outputs: int, inputs: int, dtype: torch.dtype, bits: int
) -> None:
    x, weight = draw(rows, outputs, inputs, dtype)
    ours = summed(x, packed(weight))
    assert close(ours, product_definition(x, weight), bits)


@pytest.mark.parametrize("factor", [0.0, 1e-18, 1e6, 1e17])
def test_any_scale_of_activations_is_taken(factor: float) -> None:
    """Float16 alone would flush or overflow all of these."""
    x, weight = draw(2, 128, 96, torch.float16)
    x[0] *= factor
    expected = product_definition(x, weight)
    assert close(summed(x, packed(weight)), expected, 11)
    assert close(one_row_product(x[:1], weight), expected[:1], 11)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_its_row(bad: float) -> None:
    x, weight = draw(2, 64, 32, torch.float16)
    x[0, 3] = bad
    ours = summed(x, packed(weight))
    assert not ours[0].isfinite().any()
    assert ours[1].isfinite().all()
    assert not one_row_product(x[:1], weight).isfinite().any()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    x, weight = draw(2, 192, 100, torch.float16)
    panels, scratch = packed(weight), Scratch()
    both = summed(x, panels, scratch)
    assert torch.equal(both[1:], summed(x[1:], panels, scratch))


def test_panels_hold_the_matrix() -> None:
    _, weight = draw(1, 192, 33, torch.float16)
    panels = packed(weight)
    assert torch.equal(unpack(panels), weight)
    ids = torch.tensor([0, 191, 64, 63, 64])
    assert torch.equal(panel_rows(panels, ids), weight[ids])


def test_scratch_is_reused_across_shapes() -> None:
    scratch = Scratch()
    for outputs, inputs in [(64, 33), (640, 100), (64, 640), (64, 33)]:
        x, weight = draw(1, outputs, inputs, torch.float16)
        ours = summed(x, packed(weight), scratch)
        assert close(ours, product_definition(x, weight), 11)
