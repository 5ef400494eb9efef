"""Attention over pages: the kernels against the definition, and that against a plain softmax."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from helexa.engine.kernels.decoding import (
    LEAST_KEYS,
    MOST_SPLITS,
    Pages,
    decode_definition,
    splits,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPSILON = {torch.float32: 2**-16, torch.float16: 2**-9, torch.bfloat16: 2**-6}


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def paged(lengths: list[int], size: int, spare: int = 2) -> tuple[Pages, int]:
    """Pages of sequences of these lengths, all over a cache, and the cache's slots."""
    counts = [-(-length // size) for length in lengths]
    free = list(range(sum(counts) + spare))
    random.Random(sum(lengths)).shuffle(free)
    tables = torch.full((len(lengths), max([*counts, 1]) + 1), 2**30, dtype=torch.int32)
    for row, count in zip(tables, counts, strict=True):
        row[:count] = torch.tensor([free.pop() for _ in range(count)], dtype=torch.int32)
    held = torch.tensor(lengths, dtype=torch.int32)
    return Pages(tables.to(DEVICE), held.to(DEVICE), size), (sum(counts) + spare) * size


def close(ours: Tensor, expected: Tensor) -> bool:
    error = (ours.float() - expected.float()).abs().amax()
    scale = expected.abs().amax().float().clamp(min=1e-3)
    same = (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    return same and bool(error <= EPSILON[ours.dtype] * scale)


def test_the_definition_is_a_softmax_over_the_pages() -> None:
    pages, slots = paged([5, 0, 9], 4)
    q, kv = drawn(3, 4, 8), drawn(2, 2, slots, 8)
    out = decode_definition(q, kv, pages)
    for s, length in ((0, 5), (2, 9)):
        places = [int(pages.tables[s, j // 4]) * 4 + j % 4 for j in range(length)]
        k, v = (half[:, places].repeat_interleave(2, 0) for half in kv)  # [H, S, D]
        expected = F.scaled_dot_product_attention(q[s][:, None], k, v)[:, 0]
        torch.testing.assert_close(out[s], expected, atol=1e-6, rtol=1e-5)
    assert not out[1].any()


@pytest.fixture(scope="module")
def kernel() -> Any:
    """The kernels, on a GPU, or interpreted on a CPU."""
    pytest.importorskip("triton", reason="there is no triton for this machine")
    from helexa.engine.kernels.decoding_triton import paged_decode

    return paged_decode


LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300]
SHAPES = [(4, 2, 32), (6, 1, 20), (3, 3, 8), (20, 1, 16), (2, 1, 256)]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels(shape: tuple[int, ...], parts: int, dtype: torch.dtype, kernel: Any) -> None:
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("triton's interpreter multiplies the bits of bfloat16, not its values")
    heads, groups, dim = shape
    pages, slots = paged([1, 70, 0, 17, 129], 16)
    q = drawn(5, heads, dim, dtype=dtype)
    memory = drawn(2, groups, 2, slots, dim, dtype=dtype)  # as in the cache
    kv = memory[1].transpose(0, 1)
    assert close(kernel(q, kv, pages, parts=parts), decode_definition(q, kv, pages))


@pytest.mark.parametrize("length", LENGTHS)
def test_kernels_at_every_length(length: int, kernel: Any) -> None:
    pages, slots = paged([length], 16)
    q, kv = drawn(1, 4, 16), drawn(2, 2, slots, 16)
    expected = decode_definition(q, kv, pages)
    for parts in (1, 2, 8):
        assert close(kernel(q, kv, pages, parts=parts), expected)


@pytest.mark.parametrize("parts", [1, 4])
def test_keys_that_are_all_alike(parts: int, kernel: Any) -> None:
    """One token again and again, and one key far above the rest: no split decides for another."""
    pages, slots = paged([512, 200], 16)
    q, kv = drawn(2, 2, 16), drawn(2, 1, 1, 16).expand(2, 1, slots, 16).contiguous()
    assert close(kernel(q, kv, pages, parts=parts), decode_definition(q, kv, pages))
    first = int(pages.tables[0, 20]) * 16 + 3  # token 323 of the first
    kv[0, 0, first] = 60 * q[0, 0]
    assert close(kernel(q, kv, pages, parts=parts), decode_definition(q, kv, pages))
    kv[0] *= 40  # scores in the hundreds, where e^x would overflow
    assert close(kernel(q, kv, pages, parts=parts), decode_definition(q, kv, pages))


@pytest.mark.parametrize("parts", [1, 4])
def test_gates_and_rows_that_lie_apart(parts: int, kernel: Any) -> None:
    """As a gated projection has them: a query's numbers, then its gate's."""
    pages, slots = paged([40, 3], 8)
    both = drawn(2, 4, 2, 16) * 3
    q, gate, kv = both[:, :, 0], both[:, :, 1], drawn(2, 2, slots, 16)
    expected = decode_definition(q, kv, pages) * gate.sigmoid()
    assert close(kernel(q, kv, pages, gate, parts=parts), expected)
    assert close(decode_definition(q, kv, pages, gate), expected)


@given(st.integers(1, 4096), st.integers(1, 2**20), st.sampled_from([1, 80, 132]))
def test_splits_keep_the_gpu_busy_and_are_not_too_small(
    programs: int, keys: int, processors: int
) -> None:
    count = splits(programs, keys, processors)
    assert count & (count - 1) == 0
    assert 1 <= count <= MOST_SPLITS
    if count > 1:
        assert programs * count // 2 < 2 * processors
        assert keys // (count // 2) > LEAST_KEYS
    if keys > LEAST_KEYS * MOST_SPLITS and programs == 1 and processors > 32:
        assert count == MOST_SPLITS
    assert splits(programs, 2 * keys, processors) >= count
