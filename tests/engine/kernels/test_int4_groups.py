"""torch's operator for 4 bits does what we take it to do, in the layout we write."""

from __future__ import annotations

import pytest
import torch

from helexa.engine.kernels.int4_groups import (
    block_rows,
    group_of_operator,
    int4_product,
    pack_nibbles,
    scale_table,
)

pytestmark = pytest.mark.skipif(block_rows() is None, reason="torch has no int4 operator here")


@pytest.mark.parametrize("rows", [1, 4, 17])
@pytest.mark.parametrize("columns", [64, 256, 768])
def test_products(rows: int, columns: int) -> None:
    size = block_rows()
    assert size is not None
    codes = torch.randint(0, 16, (3 * size, columns), dtype=torch.uint8)
    scale, low = torch.rand(columns // 32, 3 * size) + 0.1, torch.randint(0, 16, (columns // 32, 1))
    weights = codes.float().view(3 * size, -1, 32) - low.float()[None]
    weights = (weights * scale.T[:, :, None]).view(3 * size, columns)
    x = torch.randn(rows, columns)
    table = scale_table(scale, low.expand_as(scale).float(), 1)
    ours = int4_product(x, pack_nibbles(codes, size), table)
    assert ours.dtype == torch.float32
    assert (ours - x @ weights.T).norm() < 0.01 * (x @ weights.T).norm()


def test_what_bfloat16_holds_is_exact() -> None:
    """Small integers all the way: nothing is rounded."""
    size = block_rows()
    assert size is not None
    codes = torch.randint(0, 16, (size, 32), dtype=torch.uint8)
    x = torch.zeros(1, 32)
    x[0, 5] = 2
    table = scale_table(torch.full((1, size), 0.5), torch.full((1, size), 3.0), 1)
    expected = codes[:, 5].float() - 3
    assert torch.equal(int4_product(x, pack_nibbles(codes, size), table)[0], expected)


def test_groups_are_cut_to_what_the_operator_takes() -> None:
    sizes = [group_of_operator(group) for group in (32, 64, 96, 128, 512, 4096, 48, 16)]
    assert sizes == [32, 64, 32, 128, 256, 256, None, None]
    table = scale_table(torch.tensor([[1.0], [2.0]]), torch.tensor([[8.0], [7.0]]), 2)
    assert table.tolist() == [[[1, 0]], [[1, 0]], [[2, 2]], [[2, 2]]]
