"""The arithmetic of memory and limits, at the numbers that are agreed on."""

from __future__ import annotations

import math

import pytest

from helexa.engine.memory import (
    Limit,
    PoolSize,
    derive_limit,
    kv_budget_mb,
    kv_ceiling_mb,
    kv_reservation_mb,
    modest_prefix_cache_mb,
    pool_size,
)
from helexa.engine.rates import Rates
from helexa.errors import CapacityError

KIB_32 = 32768


@pytest.mark.parametrize(
    ("free_mb", "prefix_cache_mb", "ceiling_mb"),
    [(9286, 1024, 4714), (9286, 0, 5738), (40000, 1024, 35428), (5000, 1024, 428), (100, 1024, 0)],
)
def test_E038_kv_ceiling(free_mb: int, prefix_cache_mb: int, ceiling_mb: int) -> None:
    assert kv_ceiling_mb(free_mb, prefix_cache_mb=prefix_cache_mb) == ceiling_mb


def test_E039_kv_reservation() -> None:
    first = kv_reservation_mb(KIB_32, 67881, 8192)
    assert (first, kv_reservation_mb(KIB_32, 87040, 8192)) == (2377, 2976)
    assert first <= 4714 < 2 * first


def test_the_budget_is_what_a_full_batch_needs_or_the_ceiling() -> None:
    assert kv_budget_mb(KIB_32, 1024, max_batch=8, ceiling_mb=4714) == 256
    assert kv_budget_mb(KIB_32, 1025, max_batch=8, ceiling_mb=4714) == 8 * 33
    assert kv_budget_mb(KIB_32, 32768, max_batch=8, ceiling_mb=4714) == 4714
    assert kv_budget_mb(KIB_32, 1024, max_batch=8, ceiling_mb=4714, explicit_mb=4000) == 4000


def test_a_wish_above_the_ceiling_is_refused() -> None:
    with pytest.raises(CapacityError, match="kv_memory_mb is 5000") as refusal:
        kv_budget_mb(KIB_32, 1024, max_batch=8, ceiling_mb=4714, explicit_mb=5000)
    assert (refusal.value.required_mb, refusal.value.budget_mb) == (5000, 4714)


def test_the_pool_is_budget_and_cache_and_a_little_for_each_row() -> None:
    size = pool_size(KIB_32, 16, budget_mb=1000, prefix_cache_mb=1024, max_batch=8)
    assert size == PoolSize(num_blocks=2032 * 2, budget_blocks=2016, budget_mb=1000)


def test_a_small_model_claims_little() -> None:
    prefix_cache_mb = modest_prefix_cache_mb(1024, 4)
    size = pool_size(1024, 16, budget_mb=4, prefix_cache_mb=prefix_cache_mb, max_batch=8)
    assert size.num_blocks * 16 * 1024 == (4 + 16 + 8) * 2**20
    assert modest_prefix_cache_mb(1024, 999) == 1024


def test_no_budget_is_room_for_what_claims_nothing() -> None:
    size = pool_size(KIB_32, 16, budget_mb=0, prefix_cache_mb=1024, max_batch=8)
    assert size == PoolSize(num_blocks=16, budget_blocks=16, budget_mb=0)


@pytest.mark.parametrize("kv", [1000, 2560, 98304, 327680])
@pytest.mark.parametrize("budget_mb", [0, 1, 5, 77])
@pytest.mark.parametrize("max_batch", [1, 3])
def test_what_was_promised_can_run(kv: int, budget_mb: int, max_batch: int) -> None:
    """A claim is rounded down: the longest request of one still fits the pool, alone."""
    size = pool_size(kv, 16, budget_mb=budget_mb, prefix_cache_mb=0, max_batch=max_batch)
    longest = ((budget_mb + 1) * 2**20 - 1) // kv
    assert kv_reservation_mb(kv, longest, 0) == budget_mb
    assert longest <= size.budget_blocks * 16


def test_small_requests_side_by_side_keep_their_pages() -> None:
    """As many as there are rows, each of which claims nothing, beside one that claims it all."""
    kv, rows = 2560, 4
    size = pool_size(kv, 16, budget_mb=2, prefix_cache_mb=0, max_batch=rows)
    small, large = 2**20 // kv, 2 * 2**20 // kv
    assert (kv_reservation_mb(kv, small, 0), kv_reservation_mb(kv, large, 0)) == (0, 1)
    assert (rows - 1) * -(-small // 16) + -(-large // 16) <= size.budget_blocks


def test_E040_limit() -> None:
    limit = derive_limit(KIB_32, 262144, free_mb=9254, tokens_per_s=850)
    assert limit == Limit(context=101376, output=8192, input=93184)


@pytest.mark.parametrize(
    ("change", "context"),
    [
        ({"tokens_per_s": 8500}, 182272),
        ({"free_mb": 5000}, 46080),
        ({"clamp_tokens": 49152}, 49152),
        ({"clamp_tokens": 200000}, 101376),
        ({"kv": 0, "longest_tokens": 32768}, 32768),
        ({"free_mb": 40000, "tokens_per_s": 800}, 95232),
        ({"free_mb": 0}, 101376),
        ({"free_mb": 2600}, 0),
    ],
    ids=lambda value: str(value),
)
def test_E041_limit_varied(change: dict[str, int], context: int) -> None:
    asked = {"kv": KIB_32, "longest_tokens": 262144, "free_mb": 9254, "tokens_per_s": 850} | change
    kv, longest = asked.pop("kv"), asked.pop("longest_tokens")
    assert derive_limit(kv, longest, **asked).context == context


def test_E041_input_is_what_the_output_leaves() -> None:
    assert derive_limit(KIB_32, 262144, free_mb=40000, tokens_per_s=800).input == 87040
    assert derive_limit(KIB_32, 4096, free_mb=0, tokens_per_s=800) == Limit(4096, 2048, 2048)
    assert derive_limit(KIB_32, 600, free_mb=0, tokens_per_s=800) == Limit(600, 300, 300)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_guessed(rate: float) -> None:
    limit = derive_limit(KIB_32, 262144, free_mb=0, tokens_per_s=rate)
    assert limit.context == 120 * 800 // 1024 * 1024


def test_E042_rates() -> None:
    rates = Rates()
    assert (rates.prefill.tokens_per_s, rates.decode.tokens_per_s) == (0, 0)
    rates.add_prefill(1000, 1.0)
    rates.add_prefill(1000, 0.5)
    rates.add_decode(50, 1.0)
    rates.add_decode(100, 1.0)
    assert rates.prefill.tokens_per_s == pytest.approx(1300)
    assert rates.decode.tokens_per_s == pytest.approx(65)
    rates.add_prefill(100, 0.001)
    rates.add_prefill(1000, 0.0)
    rates.add_decode(0, 1.0)
    assert rates.prefill.tokens_per_s == pytest.approx(1300)
    assert rates.decode.tokens_per_s == pytest.approx(65)
