"""Products in bfloat16 against float64, within what bfloat16's rounding allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.kernels import narrow_product as module
from helexa.engine.kernels.narrow_product import (
    LEAST_ROWS,
    in_bfloat16,
    in_order,
    many_rows_product,
    multiplies_bfloat16,
    reorder,
    reordered_product,
    tile_product,
)

needs_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for it"
)
UNIT = 2.0**-8
"""Rounding to bfloat16, which has eight bits, changes a number by at most this times itself."""
SIZES = st.tuples(st.integers(0, 70), st.integers(1, 60), st.integers(1, 80))
FORMATS = [torch.float32, torch.float16, torch.bfloat16]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def bound(x: Tensor, weight: Tensor) -> Tensor:
    """The most by which a product may be off: [T, N].

    Each term of it is off by a unit for either factor, sums of float32 by next to nothing, and the
    result is rounded once more: three units of Σ|x||w|, and a little for units of units.
    """
    return 3.02 * UNIT * (x.abs().double() @ weight.abs().double().T) + 1e-30


@needs_bfloat16
@pytest.mark.parametrize("tile_rows", [7, 1024])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@settings(max_examples=25)
@given(sizes=SIZES, transposed=st.booleans())
def test_it_is_the_product_but_for_rounding(
    sizes: tuple[int, int, int], transposed: bool, dtype: torch.dtype, tile_rows: int
) -> None:
    rows, outputs, inputs = sizes
    x, weight = draw(rows, inputs), draw(outputs, inputs, dtype=dtype)
    if transposed:
        weight = weight.T.contiguous().T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE_ROWS", tile_rows)
        found = many_rows_product(x, weight)
    assert found.dtype == torch.float32 and found.shape == (rows, outputs)
    off = (found.double() - x.double() @ weight.double().T).abs()
    assert (off <= bound(x, weight)).all()


@needs_bfloat16
@settings(max_examples=25)
@given(sizes=SIZES)
def test_a_reordered_matrix_gives_the_same(sizes: tuple[int, int, int]) -> None:
    rows, outputs, inputs = sizes
    x, weight = draw(rows, inputs).bfloat16(), draw(outputs, inputs, dtype=torch.bfloat16)
    matrix = reorder(weight)
    assert torch.equal(in_order(matrix), weight)
    found = reordered_product(x, matrix)
    assert found.dtype == torch.bfloat16
    off = (found.double() - x.double() @ weight.double().T).abs()
    assert (off <= bound(x, weight)).all()


@needs_bfloat16
def test_whole_numbers_that_bfloat16_holds_are_multiplied_exactly() -> None:
    x, weight = (draw(*shape).mul(3).round() for shape in ((40, 24), (50, 24)))
    expected = (x @ weight.T).bfloat16().float()
    assert torch.equal(many_rows_product(x, weight), expected)
    assert torch.equal(reordered_product(x.bfloat16(), reorder(weight.bfloat16())), expected)


@needs_bfloat16
def test_a_row_does_not_depend_on_the_others() -> None:
    """So that a prompt computed again in other pieces gives the same."""
    x, weight = draw(130, 640).bfloat16(), draw(256, 640, dtype=torch.bfloat16)
    matrix = reorder(weight)
    whole = reordered_product(x, matrix)
    for rows in (1, 2, 5, 16, 64, 129):
        assert torch.equal(reordered_product(x[:rows].contiguous(), matrix), whole[:rows])


@needs_bfloat16
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_its_row(bad: float) -> None:
    x = draw(20, 32)
    x[3, 5] = bad
    found = many_rows_product(x, draw(8, 32))
    assert not found[3].isfinite().any()
    assert found[4].isfinite().all()


@pytest.mark.parametrize(("rows", "wanted"), [(LEAST_ROWS, False), (LEAST_ROWS - 1, True)])
def test_few_rows_and_those_that_may_not_be_rounded_are_float32(rows: int, wanted: bool) -> None:
    x, tile = draw(rows, 64), draw(16, 64)
    same, product = tile_product(x, bfloat16=wanted)
    assert same is x
    torch.testing.assert_close(product(same, tile), x @ tile.T, rtol=1e-5, atol=1e-4)


@needs_bfloat16
def test_many_rows_are_rounded_once_for_all_tiles() -> None:
    x, tile = draw(LEAST_ROWS, 64), draw(16, 64)
    rounded, product = tile_product(x, bfloat16=True)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(product(rounded, tile), many_rows_product(x, tile))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_every_format_is_rounded_once(dtype: torch.dtype) -> None:
    matrix = draw(9, 70, dtype=dtype)
    assert torch.equal(in_bfloat16(matrix), matrix.bfloat16())
