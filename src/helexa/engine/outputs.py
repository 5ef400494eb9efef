"""What goes into an engine core and what comes out of it: plain data, no tensors, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from helexa.engine.masks import GrammarSpec
from helexa.engine.params import SamplingParams
from helexa.errors import HelexaError

FinishReason = Literal["stop", "length"]
CacheReason = Literal["hit", "new", "diverged", "evicted", "no_snapshot", "off"]


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate.

    ``token_ids`` is the prompt. ``generated`` are tokens an earlier run already produced for it:
    generation continues after them, they count towards ``max_tokens`` and the penalties, and their
    number is the index of the next draw. ``cap`` is the longest prompt the owner admits, in tokens.
    ``images`` are arrays [3, h, w]; a request with some neither reads nor fills the prefix cache.
    ``grammar`` constrains the answer; its state follows from ``generated``.
    """

    token_ids: tuple[int, ...]
    params: SamplingParams
    images: tuple[Any, ...] = ()
    cap: int | None = None
    generated: tuple[int, ...] = ()
    grammar: GrammarSpec | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a sampled token, and of the ``top`` candidates in descending order."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CacheReport:
    """How much of a prompt was found in the prefix cache, and why not more.

    ``hit``          all whole pages a prompt of this length can reuse, or all that it has in common
                     with the closest known prompt (a conversation that went on)
    ``new``          no known prompt shares a whole page with this one
    ``diverged``     the closest known prompt went another way at ``diverged_at``, before its end
    ``evicted``      a known prompt shares more with this one than is still in memory
    ``no_snapshot``  the pages are there, but no state snapshot lies at or before that point
    ``off``          the cache is off, or the request has images

    ``diverged_at`` is the index of the first prompt token that differs from the closest known
    prompt (None if that prompt is a prefix of this one, equal to it, or unknown);
    ``nearest_tokens`` is the length of that closest prompt in tokens.
    """

    cached_tokens: int
    reason: CacheReason
    diverged_at: int | None = None
    nearest_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went so far, in milliseconds.

    ``queue_ms`` from submission to the start of prefill, ``prefill_ms`` from there to the first
    token, ``decode_ms`` from the first token to the output that tells it.
    """

    prefill_ms: float
    decode_ms: float
    queue_ms: float


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """Of ``drafted`` tokens that were guessed, the ``accepted`` ones came to be in an answer."""

    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """The share that was right; 0.0 where nothing was guessed."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def told(self) -> str:
        """As people read it: ``12 of 20``, the right ones first."""
        return f"{self.accepted} of {self.drafted}"

    def plus(self, drafted: int, accepted: int) -> DraftCounts:
        """With one more draft."""
        return DraftCounts(self.drafted + drafted, self.accepted + accepted)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step did for one request: a token, or several where a draft was right.

    The last output of a request has ``finish_reason`` or ``error`` set; the first one after its
    prompt was computed has ``cache``. ``completion_tokens`` counts all so far. ``timing`` is on
    every output, because a reader may take any of them for the last; an error may lack it. So is
    ``drafts``, what became of all drafts so far, None where there were none.
    """

    id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    error: HelexaError | None = None
    cache: CacheReport | None = None
    timing: Timing | None = None
    completion_tokens: int = 0
    drafts: DraftCounts | None = None

    @property
    def finished(self) -> bool:
        """Whether this is the request's last output."""
        return self.finish_reason is not None or self.error is not None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that came out of the prefix cache; None where ``cache`` is not told."""
        return None if self.cache is None else self.cache.cached_tokens


@dataclass(frozen=True, slots=True)
class PrefixStats:
    """Totals of the prefix cache since the core was built."""

    lookups: int = 0
    hits: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    evicted_blocks: int = 0
    last_miss: CacheReport | None = None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A core at one moment. Sizes in MiB, rates in tokens per second, times in milliseconds.

    ``last_step_ms`` is the last step as a whole; ``overhead_ms`` is the part of it spent outside
    the model (schedule, batch, sample, outputs), in host time. ``drafts`` are totals of all
    requests, with what was drawn behind a stop string, which a core does not know of.
    """

    running: int = 0
    waiting: int = 0
    kv_used_mb: float = 0.0
    kv_budget_mb: float = 0.0
    cached_mb: float = 0.0
    free_mb: float = 0.0
    unused_mb: float = 0.0
    tok_s_prefill: float = 0.0
    tok_s_decode: float = 0.0
    kv_capacity_tokens: int = 0
    prefix: PrefixStats = field(default_factory=PrefixStats)
    steps: int = 0
    last_step_ms: float = 0.0
    overhead_ms: float = 0.0
    preemptions: int = 0
    drafts: DraftCounts = field(default_factory=DraftCounts)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is fixed about a core once its model is loaded.

    ``max_context`` is the longest sequence it will run (prompt and completion), in tokens;
    ``kv_capacity_tokens`` is how many tokens the running ones may hold together in the cache.
    ``kv_budget_mb`` of the ``pool_mb`` MiB that were claimed may be promised to them.
    """

    device: str
    dtype: str
    parameters: int
    weight_mb: float
    kv_bytes_per_token: int
    kv_capacity_tokens: int
    max_context: int
    end_token_ids: tuple[int, ...] = ()
    kv_budget_mb: int = 0
    pool_mb: float = 0.0
