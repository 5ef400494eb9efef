"""The fused attention against its definition, at ragged sizes and on adversarial keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels.attention import (
    FEW_ROWS,
    SUMMED_MIN_KEYS,
    TILE_KEYS,
    TILE_NUMBERS,
    attention,
    attention_definition,
    summable,
    summed_attention,
    tiled_attention,
    visible,
)

SIZES = [(1, 1), (1, 129), (2, 2), (3, 64), (63, 63), (64, 65), (65, 513), (128, 128), (127, 511)]
HEADS = [(4, 4), (4, 2), (8, 1), (3, 1), (5, 5)]


def draw(*shape: int, kind: str) -> Tensor:
    """Random values; ``correlated`` ones are all close to one row, ``repeated`` ones equal it."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    noise = {"random": 1.0, "correlated": 0.01, "repeated": 0.0}[kind]
    return values if kind == "random" else values[:1] * 3 + noise * values


@pytest.mark.parametrize("kind", ["random", "correlated", "repeated"])
@pytest.mark.parametrize(("heads", "groups"), HEADS)
@pytest.mark.parametrize(("length", "total"), SIZES)
def test_fused_matches_the_definition(
    length: int, total: int, heads: int, groups: int, kind: str
) -> None:
    q = draw(length, heads, 16, kind=kind)
    k, v = draw(total, groups, 16, kind=kind), draw(total, groups, 16, kind="random")
    kv = torch.stack((k, v)).transpose(1, 2)
    torch.testing.assert_close(attention(q, kv), attention_definition(q, kv), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("length", [1, 40])
def test_a_16_bit_cache_serves_float32_queries(length: int, dtype: torch.dtype) -> None:
    q = draw(length, 4, 16, kind="random")
    kv = draw(2, 2, 70, 16, kind="random").to(dtype)
    expected = attention_definition(q, kv)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(attention(q, kv), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 5e-4), (torch.bfloat16, 4e-3)], ids=["fp16", "bf16"]
)
@pytest.mark.parametrize("kind", ["random", "correlated", "repeated"])
@pytest.mark.parametrize(("heads", "groups"), HEADS)
@pytest.mark.parametrize("total", [1, 200, TILE_KEYS, 2 * TILE_KEYS + 1])
def test_summing_values_where_they_lie_matches_the_definition(
    total: int, heads: int, groups: int, kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    q = draw(1, heads, 16, kind=kind)
    memory = draw(2, groups, total + 9, 16, kind="random").to(dtype)
    kv = memory[:, :, 4 : total + 4]
    assert summable(q, kv)
    expected = attention_definition(q, kv)
    torch.testing.assert_close(summed_attention(q, kv), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("total", [TILE_KEYS, 2 * TILE_KEYS + 1])
def test_summing_in_the_smallest_tiles_matches_the_definition(total: int) -> None:
    dim = TILE_NUMBERS // TILE_KEYS // 2
    q, kv = draw(1, 4, dim, kind="random"), draw(2, 2, total, dim, kind="random").half()
    expected = attention_definition(q, kv)
    torch.testing.assert_close(summed_attention(q, kv), expected, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["random", "correlated", "repeated"])
@pytest.mark.parametrize(("heads", "groups"), HEADS)
@pytest.mark.parametrize(
    ("length", "total"),
    [(1, 1), (2, 2), (5, 200), (16, TILE_KEYS), (7, TILE_KEYS + 3), (2, 2 * TILE_KEYS + 1)],
)
def test_a_few_rows_tile_by_tile_match_the_definition(
    length: int, total: int, heads: int, groups: int, kind: str, dtype: torch.dtype
) -> None:
    """Also where the last keys, which not every row may see, lie in two tiles."""
    q = draw(length, heads, 16, kind=kind)
    kv = draw(2, groups, total + 9, 16, kind="random").to(dtype)[:, :, 4 : total + 4]
    expected = attention_definition(q, kv)
    torch.testing.assert_close(tiled_attention(q, kv), expected, atol=2e-5, rtol=1e-5)


def test_drafts_over_long_contexts_are_tiled_and_prompts_are_not() -> None:
    kv = draw(2, 2, SUMMED_MIN_KEYS, 16, kind="random").half()
    for length, tiled in ((2, True), (FEW_ROWS, True), (FEW_ROWS + 1, False)):
        q = draw(length, 4, 16, kind="random")
        assert torch.equal(attention(q, kv), tiled_attention(q, kv)) == tiled


def test_long_contexts_of_one_token_are_summed_and_gathered_ones_too() -> None:
    q = draw(1, 4, 16, kind="random")
    memory = draw(2, 2, 2 * SUMMED_MIN_KEYS, 16, kind="random").half()
    slots = torch.randperm(2 * SUMMED_MIN_KEYS, generator=torch.Generator().manual_seed(1))
    kv = memory.index_select(2, slots[:SUMMED_MIN_KEYS])
    assert torch.equal(attention(q, kv), summed_attention(q, kv))
    short = kv[:, :, 1:]
    assert not torch.equal(attention(q, short), summed_attention(q, short))


def test_what_cannot_be_summed_is_left_to_the_fused_operator() -> None:
    q, kv = draw(1, 4, 16, kind="random"), draw(2, 2, 300, 16, kind="random")
    assert not summable(q, kv)
    assert not summable(q.half(), kv.half())
    assert not summable(q, kv.half().transpose(2, 3).contiguous().transpose(2, 3))
    expected = attention_definition(q, kv)
    torch.testing.assert_close(attention(q, kv), expected, atol=2e-5, rtol=1e-5)


def test_keys_may_be_strided_views() -> None:
    memory = draw(2, 2, 90, 16, kind="random")
    q = draw(5, 4, 16, kind="random")
    kv = memory[:, :, 7:77]
    expected = attention_definition(q, kv.clone())
    torch.testing.assert_close(attention(q, kv), expected, atol=2e-5, rtol=1e-5)


def test_query_i_sees_the_keys_up_to_its_own_position() -> None:
    assert visible(2, 4, torch.device("cpu")).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_one_key_is_its_own_answer() -> None:
    q, v = draw(1, 4, 8, kind="random"), draw(1, 2, 8, kind="random")
    kv = torch.stack((q[:, :2], v)).transpose(1, 2)
    torch.testing.assert_close(attention(q, kv), v.repeat_interleave(2, 1))
