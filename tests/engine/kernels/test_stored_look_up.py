"""Rows of stored matrices, and sums of splits, against torch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this machine")

from helexa.engine.kernels.joining_triton import joined
from helexa.engine.kernels.look_up_triton import look_up
from helexa.engine.kernels.stored_matrix import BLOCKS, StoredMatrix
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from tests.engine.kernels.stored import blocks

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IDS = [0, 6, 3, 3, 1]


@pytest.mark.parametrize("name", sorted(BLOCKS))
@pytest.mark.parametrize("inputs", [256, 768])
def test_rows_are_those_of_the_matrix(name: str, inputs: int) -> None:
    table = blocks(name, 7, inputs).blocks
    ids = torch.tensor(IDS, device=DEVICE)
    expected = BLOCK_TYPES[name].matrix(table)[ids]
    for dtype in (torch.float32, torch.float16):
        matrix = StoredMatrix(name, (table,), (7, inputs))
        found = look_up(ids, matrix, dtype)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected.to(dtype), rtol=1e-6, atol=1e-7)


def test_rows_of_a_single_small_block() -> None:
    type = BLOCK_TYPES["Q4_0"]
    table = type.rows(torch.linspace(-1, 1, 5 * 32).view(5, 32)).to(DEVICE)
    matrix = StoredMatrix("Q4_0", (table,), (5, 32))
    found = look_up(torch.tensor([4, 2], device=DEVICE), matrix, torch.float32)
    torch.testing.assert_close(found, type.matrix(table)[[4, 2]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 5, 7), (4, 2, 1500)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_partial_sums_are_joined(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    parts = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = joined(parts, dtype)
    assert found.dtype == dtype
    rounding = 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(found.float(), parts.sum(0), rtol=rounding, atol=rounding)
