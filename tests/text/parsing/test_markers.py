"""Which markers a vocabulary has."""

from __future__ import annotations

import pytest

from helexa.text.parsing.markers import Markers, probe_markers

THINK, TOOL = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")
MISTRAL = ("[THINK]", "[/THINK]")


class Vocabulary:
    """A vocabulary of just these tokens, numbered in their order."""

    def __init__(self, *tokens: str) -> None:
        self._ids = {token: at for at, token in enumerate(tokens)}

    def token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)


@pytest.mark.parametrize(
    ("tokens", "reasoning"),
    [
        (THINK, THINK),
        (MISTRAL, MISTRAL),
        (("<thought>", "</thought>"), ("<thought>", "</thought>")),
        (("<reasoning>", "</reasoning>"), ("<reasoning>", "</reasoning>")),
        (("<think>",), None),
        ((), None),
        ((*MISTRAL, *THINK), THINK),
        (("<think>", *MISTRAL), MISTRAL),
    ],
    ids=["qwen", "mistral", "thought", "reasoning", "only open", "none", "two", "half and whole"],
)
def test_e077_reasoning_markers(tokens: tuple[str, ...], reasoning: tuple[str, str] | None) -> None:
    assert probe_markers(Vocabulary(*tokens)).reasoning_texts == reasoning


def test_e077_ids_and_tool_markers() -> None:
    markers = probe_markers(Vocabulary("x", *THINK, *TOOL))

    assert markers.reasoning is not None and markers.tool is not None
    assert (markers.reasoning.open_id, markers.reasoning.close_id) == (1, 2)
    assert (markers.tool.open_id, markers.tool.close_id) == (3, 4)
    assert markers.tool_texts == TOOL


def test_e077_nothing_marked() -> None:
    markers = probe_markers(Vocabulary("<tool_call>"))

    assert markers == Markers()
    assert markers.tool_texts is None
