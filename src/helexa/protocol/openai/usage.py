"""What an answer cost, and how likely its tokens were, as the surfaces write it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from helexa.protocol.drafts import drafts_field
from helexa.text.events import TokenLogprob, Usage

LEAST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def chat_usage(usage: Usage) -> dict[str, Any]:
    """The usage of chat and plain completions: counts in tokens, times in whole milliseconds."""
    found: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.reasoning_tokens > 0:
        found["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.cached_tokens > 0:
        found["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    found["helexa_timing"] = {
        "prefill_ms": round(usage.prefill_ms),
        "decode_ms": round(usage.decode_ms),
        "prefill_tokens": usage.prefill_tokens,
    }
    if usage.cache is not None:
        found["helexa_cache"] = {
            "cached_tokens": usage.cache.cached_tokens,
            "diverged_at": usage.cache.diverged_at,
            "reason": usage.cache.reason,
        }
    return found | drafts(usage)


def response_usage(usage: Usage) -> dict[str, Any]:
    """The usage of a response; clients of this surface ignore a field that they do not know."""
    found: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.reasoning_tokens > 0:
        found["output_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.cached_tokens > 0:
        found["input_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return found | drafts(usage)


def drafts(usage: Usage) -> dict[str, Any]:
    """How many tokens were guessed and how many of them rightly; nothing where none were."""
    if usage.drafts is None:
        return {}
    return drafts_field(usage.drafts.drafted, usage.drafts.accepted)


def chat_logprobs(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities of content tokens, each with its alternatives."""
    return [
        {**_token(found), "top_logprobs": [_token(other) for other in found.top]}
        for found in logprobs
    ]


def _token(found: TokenLogprob) -> dict[str, Any]:
    return {
        "token": found.token,
        "logprob": finite(found.logprob),
        "bytes": list(found.bytes),
    }


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else LEAST_LOGPROB
