"""float32 products of many rows, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.kernels import wide_product as module
from helexa.engine.kernels.wide_product import (
    FINEST,
    LEAST_ROWS,
    few_kinds,
    has_onednn,
    padded,
    wide_product,
)

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


@given(size=st.integers(1, 2**20))
def test_a_kind_is_little_more(size: int) -> None:
    kind = few_kinds(size)
    assert size <= kind <= max(size * 9 / 8, size + FINEST - 1)
    assert few_kinds(kind) == kind
    assert few_kinds(size + 1) >= kind


def test_kinds_are_few() -> None:
    assert [few_kinds(size) for size in (0, 1, 3, 9, 16, 17, 128, 129, 257, 513)] == [
        *(1, 1, 4, 16, 16, 32, 128, 144, 288, 576)
    ]
    assert len({few_kinds(size) for size in range(1, 513)}) == 28
    assert len({few_kinds(size) for size in range(513, 1025)}) == 8


@settings(max_examples=40)
@given(rows=st.integers(0, 70), dtype=st.sampled_from([None, torch.bfloat16, torch.float32]))
def test_padding_is_zeros(rows: int, dtype: torch.dtype | None) -> None:
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows))
    found = padded(x, dtype)
    assert found.dtype == (dtype or torch.float32)
    assert len(found) == few_kinds(rows)
    assert torch.equal(found[:rows], x.to(found.dtype))
    assert not found[rows:].any()


@pytest.mark.skipif(not has_onednn(), reason="this torch has no such operator")
def test_onednn_meets_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a program for each, and keeps a thousand."""
    met: set[int] = set()
    known = module.padded

    def noted(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        found = known(x, dtype)
        met.add(len(found))
        return found

    monkeypatch.setattr(module, "padded", noted)
    weight = torch.ones(4, 8)
    for rows in range(LEAST_ROWS, 513):
        assert len(wide_product(torch.ones(rows, 8), weight)) == rows
    assert len(met) == 24
