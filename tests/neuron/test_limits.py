"""Memory, limits, validation and servability, at the numbers that are agreed on."""

from __future__ import annotations

import pytest

from helexa.engine.config import ModelConfig
from helexa.engine.memory import Limit, LimitRules, kv_ceiling_mb
from helexa.engine.rates import Rates
from helexa.errors import CapacityError, InvalidRequest, PromptTooLong
from helexa.neuron.config import ContextLimitConfig
from helexa.neuron.limits import (
    Limits,
    Shape,
    kv_reservation_mb,
    load_refusal,
    servable,
    still_free,
    validate,
)
from helexa.protocol.control import Limit as PublishedLimit
from helexa.protocol.control import Servable
from helexa.refusals import LowMemory

KIB_32 = 32768
LONG = Shape(KIB_32, 262144)


def limits(*, enabled: bool = True, **changes: int) -> Limits:
    return Limits.of(ContextLimitConfig(enabled=enabled), **changes)


@pytest.mark.parametrize(("world_size", "wanted"), [(1, 65536), (2, 32768), (8, 16384)])
def test_n126_kv_bytes(world_size: int, wanted: int) -> None:
    sizes = {"hidden_size": 4096, "intermediate_size": 64, "num_attention_heads": 16}
    heads = {"num_hidden_layers": 16, "num_key_value_heads": 4, "head_dim": 256}
    rest = {"vocab_size": 99, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
    config = ModelConfig.from_dict({"model_type": "qwen3", **sizes, **heads, **rest}, "m")
    assert config.kv_bytes_per_token(2, world_size) == wanted


@pytest.mark.parametrize(
    ("free_mb", "prefix_cache_mb", "ceiling_mb"),
    [(9286, 1024, 4714), (9286, 0, 5738), (40000, 1024, 35428), (5000, 1024, 428), (100, 1024, 0)],
)
def test_n127_kv_ceiling(free_mb: int, prefix_cache_mb: int, ceiling_mb: int) -> None:
    assert kv_ceiling_mb(free_mb, prefix_cache_mb=prefix_cache_mb) == ceiling_mb


def test_a_floor_from_the_environment_is_the_only_one() -> None:
    assert limits().rules.floor_mb == 1500
    assert limits(floor_mb=0).rules.floor_mb == 0


def test_a_load_that_is_too_large_is_told_by_the_name_of_its_key() -> None:
    above = CapacityError("kv_memory_mb is 9", required_mb=9, budget_mb=7, hint="kv_memory_mb")
    told = load_refusal(above, 9)
    assert "kv_mb is 9, only 7 MiB" in str(told)
    assert (told.required_mb, told.budget_mb) == (9, 7)
    other = load_refusal(CapacityError("refused", required_mb=9, budget_mb=0), None)
    assert str(other).startswith("refused")
    assert "kv_memory_mb" not in f"{told}{other}"


def test_n128_reservation() -> None:
    first = kv_reservation_mb(KIB_32, 67881, 8192)
    assert (first, kv_reservation_mb(KIB_32, 87040, 8192)) == (2377, 2976)
    assert first <= 4714 < 2 * first


@pytest.mark.parametrize(
    ("shape", "free_mb", "tokens_per_s", "clamp", "context"),
    [
        (LONG, 9254, 850, None, 101376),
        (LONG, 9254, 8500, None, 182272),
        (LONG, 2600, 850, None, 0),
        (LONG, 9254, 850, 49152, 49152),
        (LONG, 9254, 850, 200000, 101376),
        (Shape(0, 32768), 9254, 850, None, 32768),
        (Shape(KIB_32, 4096), 9254, 850, None, 4096),
    ],
    ids=["slow", "fast", "no memory", "clamp", "loose clamp", "no cache", "short"],
)
def test_n129_limit(
    shape: Shape, free_mb: int, tokens_per_s: float, clamp: int | None, context: int
) -> None:
    at = limits() if clamp is None else limits(clamp_tokens=clamp)
    limit = at.derive(shape, free_mb=free_mb, tokens_per_s=tokens_per_s)
    assert limit.context == context
    assert limit.output == min(8192, context // 2)
    assert limit.input == context - limit.output


def test_n129_no_limit_is_no_limit() -> None:
    none = limits().derive(LONG, free_mb=2600, tokens_per_s=850)
    some = Limit(context=101376, output=8192, input=93184)
    assert limits().published(none) is None
    assert limits().published(some) == PublishedLimit(context=101376, input=93184, output=8192)
    assert limits(enabled=False).published(some) is None
    caps = [limits().prompt_cap(LONG, limit) for limit in (none, some, None)]
    assert caps == [16384, 93184, 16384]
    assert limits(enabled=False).prompt_cap(LONG, some) == 16384
    assert limits().prompt_cap(Shape(KIB_32, 4096), None) == 4095


def test_one_request_may_use_the_whole_budget() -> None:
    limit = limits().derive_for_budget(LONG, 2048, tokens_per_s=8500)
    assert limit is not None
    assert limit.context == 65536
    assert kv_reservation_mb(KIB_32, limit.input, limit.output) == 2048


def test_without_a_limit_a_request_may_be_as_long_as_the_model() -> None:
    assert limits(enabled=False).derive_for_budget(LONG, 2048, tokens_per_s=8500) is None
    assert limits(enabled=False).context_tokens(LONG, None) == 262144
    none = limits().derive_for_budget(LONG, 0, tokens_per_s=8500)
    assert none == Limit(0, 0, 0)
    assert limits().context_tokens(LONG, none) == 262144
    assert limits().context_tokens(LONG, Limit(1024, 512, 512)) == 1024


def test_n130_rates() -> None:
    rates = Rates()
    seen = []
    for tokens, seconds in [(1000, 1.0), (0, 1.0), (1000, 0.0), (1000, -1.0), (2000, 1.0)]:
        rates.add_prefill(tokens, seconds)
        seen.append(round(rates.prefill.tokens_per_s))
    assert seen == [1000, 1000, 1000, 1000, 1300]
    rates.add_decode(50, 1.0)
    rates.add_decode(100, 1.0)
    assert rates.decode.tokens_per_s == pytest.approx(65)
    rates.add_prefill(100, 0.001)
    assert rates.prefill.tokens_per_s == pytest.approx(1300)


def check(prompt_tokens: int, free_mb: int, cap_tokens: int = 100_000) -> None:
    validate(prompt_tokens, cap_tokens=cap_tokens, free_mb=free_mb, floor_mb=1500)


def test_n131_validate() -> None:
    check(8000, 0)
    check(1_000_000, 0, 1_000_000)
    check(500_000, 5000, 500_000)
    with pytest.raises(PromptTooLong) as too_long:
        check(100_001, 800)
    assert (too_long.value.prompt_len, too_long.value.max) == (100_001, 100_000)
    with pytest.raises(LowMemory) as short:
        check(8000, 800)
    error = short.value
    assert (error.free_mb, error.required_mb, error.retry_after_s) == (800, 1500, 5)
    assert (error.status, error.code) == (503, "insufficient_vram")
    with pytest.raises(InvalidRequest) as empty:
        check(0, 800)
    assert empty.value.code == "empty_prompt"


def test_n132_footprint() -> None:
    limit = limits().derive(LONG, free_mb=40000, tokens_per_s=800)
    assert limit.input == 87040
    assert kv_reservation_mb(KIB_32, limit.input, limit.output) == 2976


@pytest.mark.parametrize(
    ("budget_mb", "free_mb", "ok"),
    [
        (None, 3000, False),
        (None, 60000, True),
        (None, 2726, False),
        (None, 0, None),
        (None, 4060, True),
        (None, 4059, False),
        (4713, 2726, True),
        (0, 60000, False),
    ],
)
def test_n133_servable(budget_mb: int | None, free_mb: int, ok: bool | None) -> None:
    answer = servable("loaded", kv=65536, budget_mb=budget_mb, free_mb=free_mb)
    assert (answer and answer.ok) is ok
    if ok is False:
        assert answer is not None
        assert answer.reason == "insufficient_vram"
        assert answer.detail


def test_n133_servable_without_a_budget() -> None:
    poisoned = servable("poisoned", detail="it died three times", kv=65536, budget_mb=9)
    assert poisoned == Servable(ok=False, reason="recovery_failed", detail="it died three times")
    assert servable("loaded", kv=None, free_mb=60000) is None
    assert servable("recovering", kv=65536, budget_mb=9) is None
    rules = LimitRules(headroom_mb=0, floor_mb=0)
    assert servable("loaded", kv=65536, free_mb=512, rules=rules) == Servable(ok=True)


def test_a_failed_reading_is_no_reading() -> None:
    assert still_free(5000, 0) == 5000
    assert still_free(5000, 4000) == 4000
    assert still_free(0, 0) == 0
