"""float32 products of many rows, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.engine.kernels import wide_product as module
from helexa.engine.kernels.wide_product import LEAST_ROWS, has_onednn, wide_product

SIZES = st.tuples(st.integers(0, 70), st.integers(1, 40), st.integers(1, 80))


@settings(max_examples=60)
@given(sizes=SIZES, transposed=st.booleans())
def test_it_is_the_product(sizes: tuple[int, int, int], transposed: bool) -> None:
    rows, outputs, inputs = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    x = torch.randn(rows, inputs, generator=generator)
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    weight = torch.randn(shape, generator=generator)
    weight = weight.T if transposed else weight
    expected = x.double() @ weight.double().T
    found = wide_product(x, weight)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_numbers_that_are_none_stay_none() -> None:
    x = torch.ones(LEAST_ROWS, 32)
    x[3, 5] = torch.nan
    found = wide_product(x, torch.ones(8, 32))
    assert found[3].isnan().all() and not found[4].isnan().any()


@pytest.mark.skipif(not has_onednn(), reason="this torch has no such operator")
def test_onednn_is_asked_for_many_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = module.onednn_product

    def noted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return real(x, weight)

    monkeypatch.setattr(module, "onednn_product", noted)
    weight = torch.ones(8, 32)
    for rows in (1, LEAST_ROWS - 1, LEAST_ROWS):
        wide_product(torch.ones(rows, 32), weight)
    wide_product(torch.ones(LEAST_ROWS, 32).double(), weight.double())
    assert asked == [LEAST_ROWS]
