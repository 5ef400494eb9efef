"""The marker tokens of a vocabulary: where reasoning and tool calls begin and end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

REASONING_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
TOOL_PAIRS = (("<tool_call>", "</tool_call>"),)


class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

    def token_to_id(self, token: str, /) -> int | None: ...


@dataclass(frozen=True, slots=True)
class MarkerPair:
    """Two single tokens that enclose something."""

    open: str
    close: str
    open_id: int
    close_id: int

    @property
    def texts(self) -> tuple[str, str]:
        """Both markers as text."""
        return (self.open, self.close)


@dataclass(frozen=True, slots=True)
class Markers:
    """What a model marks up in its output; None for what it has no tokens for."""

    reasoning: MarkerPair | None = None
    tool: MarkerPair | None = None

    @property
    def reasoning_texts(self) -> tuple[str, str] | None:
        """The two reasoning markers as text."""
        return None if self.reasoning is None else self.reasoning.texts

    @property
    def tool_texts(self) -> tuple[str, str] | None:
        """The two tool call markers as text."""
        return None if self.tool is None else self.tool.texts


def probe_markers(vocabulary: Vocabulary) -> Markers:
    """Look which marker pairs are whole in a vocabulary; the first such pair of a kind wins."""
    return Markers(_first_pair(vocabulary, REASONING_PAIRS), _first_pair(vocabulary, TOOL_PAIRS))


def _first_pair(vocabulary: Vocabulary, pairs: Iterable[tuple[str, str]]) -> MarkerPair | None:
    for open, close in pairs:
        open_id, close_id = vocabulary.token_to_id(open), vocabulary.token_to_id(close)
        if open_id is not None and close_id is not None:
            return MarkerPair(open, close, open_id, close_id)
    return None
