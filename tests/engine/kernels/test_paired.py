"""Matrices in blocks of pairs: where each number lies, and products against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.few_rows import few_rows
from helexa.engine.kernels.paired import (
    ALONE,
    BLOCK,
    paired_matrix,
    paired_product,
    paired_words,
)
from tests.engine.compilers import needs_compiler


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def check(found: Tensor, x: Tensor, matrix: Tensor) -> None:
    """Rounding of float32 sums is all that is off."""
    exact = x.double() @ matrix.double().T
    bound = x.abs().double() @ matrix.abs().double().T
    assert found.dtype == torch.float32 and found.shape == exact.shape
    assert ((found.double() - exact).abs() <= bound * 2**-18 + 1e-30).all()


@given(row=st.integers(0, 191), column=st.integers(0, 37))
def test_where_a_number_lies(row: int, column: int) -> None:
    matrix = torch.zeros(192, 38, dtype=torch.bfloat16)
    matrix[row, column] = 1.5
    words = paired_words(matrix)
    assert words.shape == (3, 19, BLOCK)
    assert words.count_nonzero() == 1
    bits = words[row // 64, column // 2, row % 64].item() & 0xFFFFFFFF
    assert bits == 0x3FC0 << (16 * (column % 2))  # 1.5 in bfloat16, in the half of its column


@settings(max_examples=30)
@given(blocks=st.integers(1, 3), pairs=st.integers(1, 40), transposed=st.booleans())
def test_any_bits_come_back(blocks: int, pairs: int, transposed: bool) -> None:
    bits = torch.randint(-(2**15), 2**15, (blocks * BLOCK, 2 * pairs)).to(torch.int16)
    matrix = bits.view(torch.bfloat16)
    laid_out = paired_words(matrix.T.contiguous().T if transposed else matrix)
    assert torch.equal(paired_matrix(laid_out.contiguous()).view(torch.int16), bits)


@settings(max_examples=30)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 2), pairs=st.integers(1, 50))
def test_the_product(rows: int, blocks: int, pairs: int) -> None:
    x, matrix = drawn(rows, 2 * pairs), drawn(blocks * BLOCK, 2 * pairs).bfloat16()
    check(paired_product(x, paired_words(matrix).contiguous()), x, matrix)


@needs_compiler
def test_compiled_for_every_size() -> None:
    """Rows that are no size are padded, more than the largest are split."""
    matrix = drawn(3 * BLOCK, 70).bfloat16()
    compiler = Compiler()
    words = paired_words(matrix).contiguous()

    def example(rows: int) -> list[Tensor]:
        return [torch.empty(rows, 70)]

    few = few_rows(compiler, paired_product, (), example, (words,), ALONE)
    few.want()
    assert list(compiler.compile()) == [1, 2, 3]
    for rows in range(1, 2 * ALONE.sizes[-1] + 2):
        x = drawn(rows, 70)
        check(few(x)[0], x, matrix)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    x, matrix = drawn(2, 8), drawn(BLOCK, 8).bfloat16()
    x[0, 3] = bad
    found = paired_product(x, paired_words(matrix).contiguous())
    assert not found[0].isfinite().any()
    check(found[1:], x[1:], matrix)
