"""What a generation produces, piece by piece: the union that every surface reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from helexa.engine.outputs import CacheReport, DraftCounts

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its natural-log probability under the model's raw distribution.

    ``token`` is the token as text (U+FFFD where it holds part of a character), ``bytes`` exactly
    what it stands for, ``top`` the best candidates at its position, most likely first.
    """

    id: int
    token: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation cost: counts in tokens, times in milliseconds.

    ``completion_tokens`` counts every generated token, reasoning and markers included;
    ``prefill_tokens`` is the whole prompt, ``cached_tokens`` how many of its tokens came out of
    the prefix cache, and ``cache`` says why no more did. ``drafts`` says how many tokens were
    guessed ahead, and how many of them are in the answer; None if none were.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    prefill_ms: float
    decode_ms: float
    prefill_tokens: int
    cache: CacheReport | None = None
    drafts: DraftCounts | None = None

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: tokens after the first per second; 0.0 when there were none."""
        later = self.completion_tokens - 1
        return later * 1000.0 / self.decode_ms if later > 0 and self.decode_ms > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, never empty; ``logprobs`` are of the tokens that begin in it."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One whole call of a tool; ``arguments`` is JSON text, ``index`` counts the calls from 0."""

    index: int
    id: str
    name: str
    arguments: str

    @property
    def text(self) -> str:
        """Always empty, so that every event can be printed."""
        return ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: always the last event, and sent once; ``stop`` is the stop string that was found."""

    reason: FinishReason
    usage: Usage
    stop: str | None = None

    @property
    def text(self) -> str:
        """Always empty, so that every event can be printed."""
        return ""


Event = Reasoning | Text | ToolCall | Finish
