"""What fits: the KV cache of a model, the longest request, and whether one can be taken at all.

Arithmetic only. `*_mb` are MiB (2^20 bytes); `kv` is bytes of keys and values per token on the
card of a model that has most of them to hold. ``free_mb`` 0 means that it is not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from helexa.engine import memory
from helexa.engine.memory import MIB, Limit, LimitRules, kv_reservation_mb
from helexa.engine.params import SamplingParams
from helexa.errors import CapacityError, InvalidRequest, PromptTooLong
from helexa.neuron.config import ContextLimitConfig
from helexa.protocol.control import Limit as PublishedLimit
from helexa.protocol.control import Servable
from helexa.refusals import LowMemory

__all__ = ["Limits", "Shape", "kv_reservation_mb", "servable", "still_free", "validate"]

NO_ROOM = "no memory is left for the KV cache beside what engine.context_limit keeps free"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the arithmetic needs to know of a model."""

    kv: int
    longest_tokens: int  # what the model was made for, whatever memory there is


@dataclass(frozen=True, slots=True)
class Limits:
    """An operator's choices about memory and length; None for a clamp that nobody has set."""

    rules: LimitRules
    enabled: bool = True
    prompt_cap_tokens: int = 16384
    clamp_tokens: int | None = None

    @classmethod
    def of(
        cls,
        context: ContextLimitConfig,
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
        return cls(rules, context.enabled, prompt_cap_tokens, clamp_tokens)

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

    def derive_for_budget(self, shape: Shape, budget_mb: int, tokens_per_s: float) -> Limit | None:
        """How long requests may be if one may use the whole budget; None where that is off."""
        if not self.enabled:
            return None
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


def load_refusal(error: CapacityError, kv_mb: int | None) -> CapacityError:
    """A load's want of memory in the words of who asked for it; ``kv_mb`` as it was sent."""
    text, hint = error.message, "unload other models, or lower engine.admission.max_in_flight"
    if kv_mb is not None and error.required_mb == kv_mb:
        text = f"kv_mb is {kv_mb}, only {error.budget_mb} MiB can be spared"
        hint = "lower kv_mb, or leave it out"
    return CapacityError(text, required_mb=error.required_mb, budget_mb=error.budget_mb, hint=hint)


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
        ok, fact = budget_mb > 0, NO_ROOM
    elif not free_mb:
        return None
    else:
        answer_mb = kv * rules.max_output_tokens / MIB
        needed_mb = answer_mb + rules.headroom_mb + rules.floor_mb
        ok, fact = free_mb >= needed_mb, f"{free_mb} MiB are free, {math.ceil(needed_mb)} needed"
    return Servable(ok=True) if ok else Servable(ok=False, reason="insufficient_vram", detail=fact)
