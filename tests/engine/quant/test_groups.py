"""Integers with scales for groups: every shape of groups, blocks and places."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.kernels.int4_groups import block_rows
from helexa.engine.kernels.narrow_product import multiplies_bfloat16
from helexa.engine.loading import resolve_numerics
from helexa.engine.quant.groups import FEW, Groups, GroupWeight, group_weight
from helexa.engine.quant.stack import StackedWeight
from helexa.errors import CheckpointError

CPU = torch.device("cpu")
EXACT = resolve_numerics("float32", CPU, False)
QUICK = resolve_numerics("bfloat16", CPU, False)
has_operator = pytest.mark.skipif(block_rows() is None, reason="torch has no int4 operator here")


def stored(
    rows: int,
    columns: int,
    group: int,
    *,
    bits: int = 4,
    index: Tensor | None = None,
    seed: int = 1,
) -> tuple[Groups, Tensor]:
    """A random matrix, and what it means by the definition, number by number."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(top: int, *shape: int) -> Tensor:
        return torch.randint(0, top, shape, generator=generator, dtype=torch.uint8)

    count = -(-columns // group)
    codes, zero = drawn(2**bits, rows, columns), drawn(2**bits, count, rows)
    scale = torch.rand(count, rows, generator=generator).half() + 0.01
    group_of = torch.arange(columns) // group if index is None else index.long()
    centred = codes.float() - zero.float()[group_of].T - 1
    meant = centred * scale.float()[group_of].T
    return (
        Groups("m", rows, bits, lambda a, b: codes[a:b], scale, zero, 1, group, index),
        meant,
    )


def check(parts: list[tuple[Groups, Tensor]], columns: int) -> None:
    """That the weight of these parts is what they mean, and multiplies so."""
    weight = group_weight([part for part, _ in parts], columns, EXACT)
    meant = torch.cat([matrix for _, matrix in parts])
    assert weight.shape == meant.shape
    assert torch.equal(weight.matrix(), meant)
    for rows in (0, 1, 5, 33):
        x = torch.randn(rows, columns)
        torch.testing.assert_close(weight.matmul(x), x @ meant.T, atol=1e-3, rtol=1e-4)


@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 100),
    group=st.integers(1, 100),
    bits=st.sampled_from([2, 3, 4, 6, 8]),
)
def test_ragged_shapes(rows: int, columns: int, group: int, bits: int) -> None:
    check([stored(rows, columns, min(group, columns), bits=bits)], columns)


@given(st.lists(st.integers(0, 3), min_size=32, max_size=32))
def test_any_column_may_be_in_any_group(groups: list[int]) -> None:
    index = torch.tensor(groups, dtype=torch.int32)
    check([stored(70, 32, 8, index=index)], 32)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [((128, 64, 64), 1), ((128, 64, 7), 1), ((128, 40, 64), 2), ((3, 5, 7), 3)],
    ids=repr,
)
def test_places_become_one_weight_where_blocks_end_with_them(
    sizes: tuple[int, ...], parts: int
) -> None:
    made = [stored(rows, 64, 32, seed=i) for i, rows in enumerate(sizes)]
    check(made, 64)
    weight = group_weight([part for part, _ in made], 64, EXACT)
    if parts == 1:
        assert isinstance(weight, GroupWeight)
    else:
        assert isinstance(weight, StackedWeight)
        assert len(weight.parts) == parts


def test_orders_that_differ_keep_places_apart() -> None:
    orders = [
        torch.randperm(64, generator=torch.Generator().manual_seed(i)) // 32 for i in (1, 1, 2)
    ]
    made = [stored(64, 64, 32, index=order, seed=i) for i, order in enumerate(orders)]
    check(made, 64)
    weight = group_weight([part for part, _ in made], 64, EXACT)
    assert isinstance(weight, StackedWeight)
    assert [part.shape[0] for part in weight.parts] == [128, 64]


@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_group_that_is_not_there_is_an_error(wrong: int) -> None:
    part, _ = stored(64, 64, 32, index=torch.tensor([0, 1] * 32))
    index = torch.tensor([wrong, *[0, 1] * 31, 0])
    with pytest.raises(CheckpointError, match=r"m: a group index is outside 0 … 1"):
        group_weight([dataclasses.replace(part, index=index)], 64, EXACT)


@has_operator
@pytest.mark.parametrize("group", [32, 64, 96, 128, 256, 512, 1024])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_few_rows_take_the_operator(group: int, ordered: bool) -> None:
    columns = 1536 if group == 96 else 1024
    index = None
    if ordered:
        index = torch.randperm(columns, generator=torch.Generator().manual_seed(1)) // group
    part, meant = stored(100, columns, group, index=index)
    weight = group_weight([part], columns, QUICK)
    assert isinstance(weight, GroupWeight)
    assert weight.table is not None
    oracle = dataclasses.replace(weight, table=None)
    for rows in (1, 2, FEW):
        x = torch.randn(rows, columns)
        error = (weight.matmul(x) - x @ meant.T).norm() / (x @ meant.T).norm()
        assert 0 < error < 0.01
        torch.testing.assert_close(oracle.matmul(x), x @ meant.T, atol=1e-2, rtol=1e-4)
    x = torch.randn(FEW + 1, columns)
    assert torch.equal(weight.matmul(x), oracle.matmul(x))


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU has no instructions for it")
@pytest.mark.parametrize("index", [None, torch.arange(1024).flip(0) // 32], ids=["even", "order"])
def test_many_rows_are_multiplied_in_bfloat16(index: Tensor | None) -> None:
    """Each factor and each result rounded to its eight bits; few rows, and small matrices, not."""
    part, meant = stored(512, 1024, 32, bits=8, index=index)
    weight = group_weight([part], 1024, QUICK)
    assert isinstance(weight, GroupWeight)
    assert weight.bfloat16
    x = torch.randn(40, 1024)
    off = (weight.matmul(x) - x @ meant.T).abs()
    assert (off <= 3.02 * 2.0**-8 * (x.abs() @ meant.abs().T)).all()
    assert off.max() > 0.01
    torch.testing.assert_close(weight.matmul(x[:3]), x[:3] @ meant.T, atol=1e-2, rtol=1e-4)
    small, _ = stored(496, 1024, 32, bits=8)
    for groups, numerics in ((small, QUICK), (part, EXACT)):
        exact = group_weight([groups], 1024, numerics)
        assert isinstance(exact, GroupWeight)
        assert not exact.bfloat16


@pytest.mark.parametrize(
    ("dtype", "disabled", "group", "bits"),
    [
        ("float32", (), 32, 4),
        ("bfloat16", ("quant_kernels",), 32, 4),
        ("bfloat16", (), 48, 4),
        ("bfloat16", (), 32, 8),
    ],
)
def test_the_operator_is_left_out(
    dtype: str, disabled: tuple[str, ...], group: int, bits: int
) -> None:
    part, _ = stored(64, 96, group, bits=bits)
    weight = group_weight([part], 96, resolve_numerics(dtype, CPU, False, disabled))
    assert isinstance(weight, GroupWeight)
    assert weight.table is None


def test_it_weighs_little_more_than_its_file() -> None:
    part, _ = stored(256, 1024, 128)
    exact = group_weight([part], 1024, EXACT)
    assert exact.nbytes == 256 * 512 + 8 * 256 * (2 + 1)
    assert group_weight([part], 1024, QUICK).nbytes <= exact.nbytes + 8 * 256 * 4
