"""Any number of rows by kernels of one and of a few, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.compiled import Compiler
from helexa.engine.kernels.few_rows import FEW, FewRows, Plan, few_rows
from helexa.engine.kernels.streamed import streamed_product
from tests.engine.compilers import needs_compiler

COLUMNS, OUTPUTS = 40, 24


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def product(compiler: Compiler, matrix: Tensor, plan: Plan) -> FewRows:
    def example(rows: int) -> list[Tensor]:
        return [torch.empty(rows, COLUMNS)]

    return few_rows(compiler, streamed_product, (), example, (matrix,), plan)


@needs_compiler
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_padded_and_cut(transposed: bool) -> None:
    """One by its own kernel, others by that of a few, each as often as needed, however they lie."""
    matrix = drawn(OUTPUTS, COLUMNS).bfloat16()
    compiler = Compiler()
    few = product(compiler, matrix, Plan())
    assert len(compiler) == 0
    few.want()
    assert list(compiler.compile()) == [1, 2]
    for rows in range(1, 2 * FEW + 2):
        x = drawn(rows, COLUMNS)
        (found,) = few(x.T.contiguous().T if transposed else x)
        assert found.shape == (rows, OUTPUTS)
        assert torch.allclose(found, (x.double() @ matrix.double().T).float(), atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "taken"),
    [(1, [1]), (2, [3]), (3, [3]), (4, [3, 1]), (5, [3, 3]), (7, [3, 3, 1])],
)
def test_the_smallest_kernel_that_holds_them(rows: int, taken: list[int]) -> None:
    seen: list[int] = []
    few = product(Compiler(), drawn(OUTPUTS, COLUMNS), Plan(sizes=(1, 3)))
    for size, kernel in few.kernels:
        assert not kernel.wanted

        def noted(x: Tensor, matrix: Tensor, size: int = size) -> Tensor:
            assert len(x) == size and x.is_contiguous()
            seen.append(size)
            return streamed_product(x, matrix)

        kernel.run = noted
    x = drawn(COLUMNS, rows).T
    (found,) = few(x)
    assert seen == taken
    assert torch.allclose(found, x @ few.tensors[0].T, atol=1e-5)
