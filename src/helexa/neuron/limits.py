"""What fits: the KV cache of a model, the longest request, and whether one can be taken at all.

Arithmetic only. `*_mb` are MiB (2^20 bytes); `kv` is bytes of keys and values per token on the
card of a model that has most of them to hold. ``free_mb`` 0 means that it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from helexa.engine import memory
from helexa.engine.memory import MIB, Limit, LimitRules, kv_reservation_mb
from helexa.engine.params import SamplingParams
from helexa.errors import CapacityError, InvalidRequest, PromptTooLong
from helexa.neuron.config import ContextLimitConfig, PrefixCacheConfig
from helexa.protocol.control import Limit as PublishedLimit
from helexa.protocol.control import Servable
from helexa.refusals import LowMemory

__all__ = ["Limits", "Shape", "kv_bytes", "kv_reservation_mb", "servable", "still_free", "validate"]

FULL_ATTENTION = "full_attention"


def kv_bytes(config: Mapping[str, Any], *, world_size: int = 1, dtype_bytes: int = 2) -> int:
    """Bytes of keys and values per token and card, from a config.json with its sizes filled in."""
    kinds = config.get("layer_types")
    layers, interval = config["num_hidden_layers"], config.get("full_attention_interval")
    if kinds:
        full = sum(kind == FULL_ATTENTION for kind in kinds)
    else:
        full = layers // interval if interval else layers
    heads = max(1, config["num_key_value_heads"] // world_size)
    return int(2 * full * heads * config["head_dim"] * dtype_bytes)


@dataclass(frozen=True, slots=True)
class Shape:
    """What the arithmetic needs to know of a model."""

    kv: int
    longest_tokens: int  # max_position_embeddings


@dataclass(frozen=True, slots=True)
class Limits:
    """An operator's choices about memory and length; None for a clamp that nobody has set."""

    rules: LimitRules
    prefix_cache_mb: int
    enabled: bool = True
    prompt_cap_tokens: int = 16384
    clamp_tokens: int | None = None

    @classmethod
    def of(
        cls,
        context: ContextLimitConfig,
        prefix_cache: PrefixCacheConfig,
        *,
        floor_mb: int | None = None,
        prompt_cap_tokens: int = 16384,
        clamp_tokens: int | None = None,
    ) -> Limits:
        """From the configuration; ``floor_mb``, if given, replaces the configured one."""
        rules = LimitRules(
            headroom_mb=context.activation_headroom_mb,
            floor_mb=context.min_free_floor_mb if floor_mb is None else floor_mb,
            target_latency_s=context.target_prefill_latency_secs,
            bootstrap_tokens_per_s=context.bootstrap_prefill_tok_per_sec,
            max_output_tokens=context.output_reserve_tokens,
        )
        kept_mb = prefix_cache.budget_mb if prefix_cache.enabled else 0
        return cls(rules, kept_mb, context.enabled, prompt_cap_tokens, clamp_tokens)

    def kv_ceiling_mb(self, free_mb: int) -> int:
        """The most that requests may be given of what is free once the weights are in place."""
        return memory.kv_ceiling_mb(
            free_mb,
            prefix_cache_mb=self.prefix_cache_mb,
            headroom_mb=self.rules.headroom_mb,
            floor_mb=self.rules.floor_mb,
        )

    def kv_budget_mb(
        self,
        shape: Shape,
        free_mb: int,
        *,
        seats: int,
        context_tokens: int,
        asked_mb: int | None = None,
    ) -> int:
        """What all requests of a model are given together: its seats' worth, if there is so much.

        Raises CapacityError if ``asked_mb`` is more than can be spared.
        """
        ceiling_mb = self.kv_ceiling_mb(free_mb)
        if asked_mb is not None:
            if asked_mb <= ceiling_mb:
                return asked_mb
            raise CapacityError(
                f"kv_mb is {asked_mb}, only {ceiling_mb} MiB can be spared",
                required_mb=asked_mb,
                budget_mb=ceiling_mb,
                hint="lower kv_mb, or leave it out",
            )
        tokens = min(shape.longest_tokens, context_tokens, self.clamp_tokens or context_tokens)
        return min(ceiling_mb, seats * math.ceil(shape.kv * tokens / MIB))

    def derive(self, shape: Shape, *, free_mb: int, tokens_per_s: float) -> Limit:
        """How long requests may be."""
        return memory.derive_limit(
            shape.kv,
            shape.longest_tokens,
            free_mb=free_mb,
            tokens_per_s=tokens_per_s,
            clamp_tokens=self.clamp_tokens,
            rules=self.rules,
        )

    def derive_for_budget(self, shape: Shape, budget_mb: int, tokens_per_s: float) -> Limit:
        """How long requests may be if one may use the whole budget."""
        reserved_mb = self.rules.headroom_mb + self.rules.floor_mb
        return self.derive(shape, free_mb=budget_mb + reserved_mb, tokens_per_s=tokens_per_s)

    def context_tokens(self, shape: Shape, limit: Limit | None) -> int:
        """The longest that prompt and answer of a request may become together."""
        if limit is None or self.published(limit) is None:
            return shape.longest_tokens
        return limit.context

    def prompt_cap(self, shape: Shape, limit: Limit | None) -> int:
        """The longest prompt that is taken."""
        if limit is None or self.published(limit) is None:
            return min(self.prompt_cap_tokens, shape.longest_tokens - 1)
        return limit.input

    def published(self, limit: Limit | None) -> PublishedLimit | None:
        """What `/models` says of it; None where there is no limit that could be kept."""
        if limit is None or limit.input == 0 or not self.enabled:
            return None
        return PublishedLimit(context=limit.context, input=limit.input, output=limit.output)


def shortened(params: SamplingParams, room_tokens: int) -> SamplingParams:
    """The params of an answer that may have ``room_tokens``; a minimum above that comes down."""
    if params.max_tokens <= room_tokens:
        return params
    least = min(params.min_tokens, room_tokens)
    return params.override(max_tokens=room_tokens, min_tokens=least)


def still_free(last_mb: int, sampled_mb: int) -> int:
    """The reading to go by: one that failed (0) never takes the place of a good one."""
    return sampled_mb or last_mb


def validate(prompt_tokens: int, *, cap_tokens: int, free_mb: int, floor_mb: int) -> None:
    """Refuse a prompt that is empty or too long, and any while memory is short.

    Raises InvalidRequest (`empty_prompt`), PromptTooLong or LowMemory, in this order.
    """
    if prompt_tokens == 0:
        raise InvalidRequest("the prompt is empty", param="messages", code="empty_prompt")
    if prompt_tokens > cap_tokens:
        raise PromptTooLong(prompt_tokens, cap_tokens)
    if free_mb and free_mb < floor_mb:
        raise LowMemory(free_mb, floor_mb)


def servable(
    status: Literal["loaded", "recovering", "poisoned"],
    *,
    detail: str | None = None,
    kv: int | None = None,
    budget_mb: int | None = None,
    free_mb: int = 0,
    rules: LimitRules = memory.DEFAULT_RULES,
) -> Servable | None:
    """Whether a model can take requests, None if that cannot be said; ``kv`` None: no text model.

    A model that is only busy is servable.
    """
    if status == "poisoned":
        return Servable(ok=False, reason="recovery_failed", detail=detail)
    if status == "recovering" or kv is None:
        return None
    if budget_mb is not None:
        ok, fact = budget_mb > 0, "no memory is left for the KV cache"
    elif not free_mb:
        return None
    else:
        answer_mb = kv * rules.max_output_tokens / MIB
        needed_mb = answer_mb + rules.headroom_mb + rules.floor_mb
        ok, fact = free_mb >= needed_mb, f"{free_mb} MiB are free, {math.ceil(needed_mb)} needed"
    return Servable(ok=True) if ok else Servable(ok=False, reason="insufficient_vram", detail=fact)
