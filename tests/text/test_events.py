"""Every event has text to print; usage derives its sums."""

from __future__ import annotations

from helexa.text.events import Finish, Reasoning, Text, ToolCall, Usage

USAGE = Usage(10, 5, 2, 4, prefill_ms=1.0, decode_ms=2000.0, prefill_tokens=10)


def test_e098_every_event_has_text() -> None:
    events = [Reasoning("a"), Text("b"), ToolCall(0, "id", "f", "{}"), Finish("stop", USAGE)]

    assert [event.text for event in events] == ["a", "b", "", ""]


def test_usage_sums() -> None:
    assert USAGE.total_tokens == 15
    assert USAGE.tokens_per_second == 2.0
    assert Usage(1, 1, 0, 0, 0.0, 0.0, 1).tokens_per_second == 0.0
