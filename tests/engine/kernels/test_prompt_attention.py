"""Attention in blocks against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helexa.engine.kernels import prompt_attention as module
from helexa.engine.kernels.attention import attention, attention_definition
from helexa.engine.kernels.prompt_attention import (
    block_attention,
    block_tokens,
    blocks_of,
    pays_blocks,
)
from helexa.engine.kernels.wide_product import few_kinds, has_onednn

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch has no such operator")

HEADS = [(4, 4), (4, 2), (8, 1), (3, 1)]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("scores_bytes", [2**12, 2**15, 2**20])
@pytest.mark.parametrize(("heads", "groups"), HEADS)
@pytest.mark.parametrize(
    ("length", "total"), [(1, 1), (17, 17), (33, 40), (64, 64), (100, 163), (129, 513)]
)
def test_blocks_match_the_definition(
    length: int,
    total: int,
    heads: int,
    groups: int,
    scores_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Queries and keys being views, as they are in a model."""
    monkeypatch.setattr(module, "SCORES_BYTES", scores_bytes)
    q = draw(length, heads + groups, 16)[:, :heads]
    kv = draw(2, groups, total + 9, 16)[:, :, 5 : total + 5]
    found = block_attention(q, kv)
    assert found.shape == q.shape
    torch.testing.assert_close(found, attention_definition(q, kv), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_a_16_bit_cache_is_widened(dtype: torch.dtype) -> None:
    q, kv = draw(70, 4, 16), draw(2, 2, 90, 16).to(dtype)
    expected = attention_definition(q, kv)
    torch.testing.assert_close(block_attention(q, kv), expected, atol=2e-5, rtol=1e-5)


def test_keys_that_nobody_may_see_yet_change_nothing() -> None:
    q, kv = draw(40, 2, 8), draw(2, 1, 60, 8)
    other = kv.clone()
    other[:, :, 50:] = torch.nan
    found = block_attention(q[:30], other[:, :, :50])
    assert torch.equal(found, block_attention(q[:30], kv[:, :, :50]))
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("length", "keys", "pays"),
    [(1, 2**15, False), (16, 2**15, False), (17, 2**15, True), (64, 64, False), (128, 128, True)],
)
def test_prompts_are_attended_for_in_blocks(length: int, keys: int, pays: bool) -> None:
    q = torch.empty(length, 1, 8)
    assert pays_blocks(q, keys) is pays
    assert not pays_blocks(q.double(), keys)
    assert not pays_blocks(q.to("meta"), keys)
    if pays and keys < 200:
        q, kv = draw(length, 2, 8), draw(2, 1, keys, 8)
        assert torch.equal(attention(q, kv), block_attention(q, kv))


@pytest.mark.parametrize(
    ("keys", "shared", "tokens"), [(512, 2, 256), (576, 2, 128), (2**15, 1, 16), (16, 1, 2**14)]
)
def test_scores_of_a_block_stay_in_a_cache(keys: int, shared: int, tokens: int) -> None:
    assert block_tokens(keys, shared) == tokens


def test_blocks_are_of_few_kinds() -> None:
    """Each kind costs half a megabyte for as long as the process lives."""
    kinds = set()
    for total in range(17, 2048):
        for length in {min(total, 512), total % 512 or 512}:
            blocks = blocks_of(length, total, 2)
            assert [token for block in blocks for token in range(length)[block.tokens]] == list(
                range(length)
            )
            kinds |= {(few_kinds(2 * len(block.hidden)), block.seen) for block in blocks}
    assert len(kinds) < 250
