"""Constrained output as the engine sees it: which tokens may come next, and nothing about why.

A request carries a `GrammarSpec`, plain data that may cross a process boundary. Whoever builds the
core hands it a `MaskFactory`, made beside the tokenizer, which turns a spec into a `TokenMask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

GrammarKind = Literal["json_object", "json_schema", "tool_calls", "json_or_tool_calls"]


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """What an answer must look like: plain data, opaque to the engine.

    ``text`` is JSON whose meaning depends on ``kind``. ``reasoning`` says whether the answer may be
    preceded by reasoning, which is not constrained.
    """

    kind: GrammarKind
    text: str
    reasoning: bool = True


class TokenMask(Protocol):
    """The state of one constrained answer: a function of the tokens that were accepted."""

    def fill(self) -> bytes | None:
        """The tokens that may come next, token i at bit i % 8 of byte i // 8; None: all may.

        Ids past the end of the mask may not. Raises HelexaError if this answer cannot go on.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Go on after a token that is not an end token; HelexaError for one that may not come."""
        ...

    @property
    def is_terminated(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        ...

    @property
    def is_cut(self) -> bool:
        """Whether it was completed only because its tokens ran out."""
        ...


class MaskFactory(Protocol):
    """Turns specs into masks; safe to share between threads."""

    def prepare(self, spec: GrammarSpec) -> None:
        """Compile a spec ahead of time, which may take long; `start` is quick afterwards.

        Raises UnsupportedGrammar if it cannot be expressed, or not within bounds. Called on a
        thread that may wait, before a request reaches the core.
        """
        ...

    def start(
        self, spec: GrammarSpec, prompt: Sequence[int], ends: frozenset[int], max_tokens: int
    ) -> TokenMask:
        """A mask for an answer to ``prompt`` that ``ends`` with one of these tokens.

        It may bring the answer to its end within ``max_tokens``, where that would cut it off.
        """
        ...
