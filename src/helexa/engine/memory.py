"""How much memory the KV cache may have, and what that means for requests. Arithmetic only.

Everything named ``*_mb`` is in MiB (2^20 bytes), ``kv`` is bytes of keys and values per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from helexa.errors import CapacityError

MIB: Final = 2**20
ACTIVATION_HEADROOM_MB: Final = 2048
FLOOR_MB: Final = 1500
PREFIX_CACHE_MB: Final = 1024
HOST_SHARE: Final = 4
CONTEXT_STEP: Final = 1024
MAX_OUTPUT_TOKENS: Final = 8192
TARGET_LATENCY_S: Final = 120
BOOTSTRAP_TOKENS_PER_S: Final = 800
SMALL_MATRIX: Final = 2**19
"""Numbers; smaller ones lie in a CPU's cache, where 16 bits save no time: they are float32. All
experts of a layer count together: 16 with matrices of 458752 numbers decode 1.4 times as fast and
more in 16 bits or quantised."""
SMALL_KV: Final = 8192
"""Of a token, in float32: a thousand tokens are 8 MiB, and 16 bits would save nothing."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a request may be, in tokens: prompt and completion, completion, prompt."""

    context: int
    output: int
    input: int


@dataclass(frozen=True, slots=True)
class LimitRules:
    """What a derived limit goes by: free memory, the time a prefill may take, room for answers."""

    headroom_mb: int = ACTIVATION_HEADROOM_MB
    floor_mb: int = FLOOR_MB
    target_latency_s: float = TARGET_LATENCY_S
    bootstrap_tokens_per_s: float = BOOTSTRAP_TOKENS_PER_S
    max_output_tokens: int = MAX_OUTPUT_TOKENS


DEFAULT_RULES: Final = LimitRules()


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The pool of pages: how many blocks, and how many of them sequences may hold.

    ``budget_mb`` is what those are promised in whole MiB; they may hold a little more.
    ``snapshots`` is how many states are kept beside those of running sequences.
    """

    num_blocks: int
    budget_blocks: int
    budget_mb: int
    snapshots: int = 0


def kv_ceiling_mb(
    free_mb: int,
    *,
    prefix_cache_mb: int = PREFIX_CACHE_MB,
    headroom_mb: int = ACTIVATION_HEADROOM_MB,
    floor_mb: int = FLOOR_MB,
) -> int:
    """The most that running sequences may be given of ``free_mb``; 0 if nothing can be spared.

    ``prefix_cache_mb`` is 0 when the prefix cache is off.
    """
    return max(0, free_mb - headroom_mb - floor_mb - prefix_cache_mb)


def host_kv_ceiling_mb(
    available_mb: int,
    *,
    prefix_cache_mb: int = PREFIX_CACHE_MB,
    headroom_mb: int = ACTIVATION_HEADROOM_MB,
    floor_mb: int = FLOOR_MB,
    share: int = HOST_SHARE,
) -> int:
    """The most that running sequences may be given of host memory.

    One part in ``share`` counts as free, as other programs live there too; as the reserves are
    meant for accelerators, half of what counts as free is granted in any case.
    """
    free_mb = available_mb // share
    ceiling_mb = kv_ceiling_mb(
        free_mb, prefix_cache_mb=prefix_cache_mb, headroom_mb=headroom_mb, floor_mb=floor_mb
    )
    return max(ceiling_mb, free_mb // 2)


def kv_budget_mb(
    kv: int, tokens: int, *, max_batch: int, ceiling_mb: int, explicit_mb: int | None = None
) -> int:
    """What running sequences are given: room for ``max_batch`` of ``tokens`` each, if there is.

    ``explicit_mb`` is taken as it is. Raises CapacityError if it exceeds the ceiling.
    """
    if explicit_mb is None:
        return min(ceiling_mb, max_batch * math.ceil(kv * tokens / MIB))
    if explicit_mb > ceiling_mb:
        raise CapacityError(
            f"kv_memory_mb is {explicit_mb}, only {ceiling_mb} MiB can be spared",
            required_mb=explicit_mb,
            budget_mb=ceiling_mb,
            hint="lower kv_memory_mb or prefix_cache_mb, or leave kv_memory_mb out",
        )
    return explicit_mb


def modest_prefix_cache_mb(prefix_cache_mb: int, budget_mb: int) -> int:
    """No more than four times the budget of the sequences: a small model claims little."""
    return min(prefix_cache_mb, 4 * budget_mb)


def pool_size(
    kv: int,
    block_size: int,
    *,
    budget_mb: int,
    prefix_cache_mb: int,
    max_batch: int,
    state_bytes: int = 0,
    max_snapshots: int = 0,
) -> PoolSize:
    """The pool for a budget: what sequences may hold, plus what keeps idle pages.

    Sequences get one MiB per row on top of the budget, and whole blocks: a claim is rounded down
    to whole MiB, and a page may be half full. So whatever was promised can run, side by side. Idle
    pages get ``prefix_cache_mb``, and nothing where there is no budget. Of a recurrent model's,
    snapshots of ``state_bytes`` each get their part first.
    """
    block_bytes = kv * block_size
    budget_blocks = -(-(budget_mb + max_batch) * MIB // block_bytes)
    idle_bytes = prefix_cache_mb * MIB if budget_mb else 0
    snapshots = min(max_snapshots, idle_bytes // state_bytes) if state_bytes else 0
    idle_blocks = (idle_bytes - snapshots * state_bytes) // block_bytes
    return PoolSize(budget_blocks + idle_blocks, budget_blocks, budget_mb, snapshots)


def kv_reservation_mb(kv: int, prompt_tokens: int, max_new_tokens: int) -> int:
    """What a request needs at its longest, rounded down to whole MiB."""
    return kv * (prompt_tokens + max_new_tokens) // MIB


def derive_limit(
    kv: int,
    longest_tokens: int,
    *,
    free_mb: int,
    tokens_per_s: float,
    clamp_tokens: int | None = None,
    rules: LimitRules = DEFAULT_RULES,
) -> Limit:
    """How long requests may be so that they fit memory and their prefill takes a bounded time.

    ``free_mb`` 0 means unknown and does not limit; ``tokens_per_s`` is the prefill rate seen so
    far, anything but a finite positive number standing for a careful guess.
    """
    known = math.isfinite(tokens_per_s) and tokens_per_s > 0
    rate = tokens_per_s if known else rules.bootstrap_tokens_per_s
    bounds = [longest_tokens, int(rules.target_latency_s * rate)]
    if free_mb and kv:
        bounds.append(max(0, free_mb - rules.headroom_mb - rules.floor_mb) * MIB // kv)
    if clamp_tokens is not None:
        bounds.append(clamp_tokens)
    context = min(bounds)
    if context >= CONTEXT_STEP:
        context -= context % CONTEXT_STEP
    output = min(rules.max_output_tokens, context // 2)
    return Limit(context, output, context - output)
