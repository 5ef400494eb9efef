"""Whatever a model says, a stream and a whole answer say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.protocol.openai.projection import Projection, collect
from helexa.text.events import Event, Finish, Reasoning, Text, ToolCall
from tests.protocol.builders import (
    MARKERS,
    answers,
    chat,
    datas,
    names,
    plain,
    quick,
    response,
    wire,
)

Make = Callable[[], Projection]


def said(events: list[Event], kind: type[Text] | type[Reasoning]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def calls(events: list[Event]) -> list[tuple[str, str, str]]:
    return [(e.id, e.name, e.arguments) for e in events if isinstance(e, ToolCall)]


def chat_stream(body: bytes) -> dict[str, Any]:
    """What a client adds up from a chat stream."""
    found: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": [], "logprobs": []}
    for chunk in datas(body)[:-1]:
        if not chunk["choices"]:
            found["usage"] = chunk["usage"]
            continue
        (choice,) = chunk["choices"]
        found["reason"] = choice["finish_reason"]
        delta = choice["delta"]
        found["content"] += delta.get("content", "")
        found["reasoning_content"] += delta.get("reasoning_content", "")
        found["logprobs"] += choice.get("logprobs", {}).get("content", [])
        for made in delta.get("tool_calls", []):
            assert made["index"] == len(found["calls"])
            found["calls"].append({key: made[key] for key in made if key != "index"})
    return found


@quick
@given(answers, st.booleans())
def test_chat(events: list[Event], logprobs: bool) -> None:
    found = chat_stream(wire(chat(logprobs=logprobs), events))
    whole = collect(chat(logprobs=logprobs), events)
    (choice,) = whole["choices"]
    message = choice["message"]
    assert found["content"] == message["content"] == said(events, Text)
    assert found["reasoning_content"] == message.get("reasoning_content", "")
    assert found["reasoning_content"] == said(events, Reasoning)
    assert found["calls"] == message.get("tool_calls", [])
    assert [(c["id"], *c["function"].values()) for c in found["calls"]] == calls(events)
    assert found["usage"] == whole["usage"]
    assert found["reason"] == choice["finish_reason"]
    assert found["logprobs"] == choice.get("logprobs", {}).get("content", [])


@quick
@given(answers, st.sampled_from([None, MARKERS]))
def test_chat_with_thinking(events: list[Event], markers: tuple[str, str] | None) -> None:
    def make() -> Projection:
        return chat(include_thinking=True, markers=markers)

    found = chat_stream(wire(make(), events))
    content = collect(make(), events)["choices"][0]["message"]["content"]
    assert found["content"] == content
    assert found["reasoning_content"] == ""
    if markers:
        assert content.count(markers[0]) == content.count(markers[1])
        content = content.replace(markers[0], "").replace(markers[1], "")
    told = [e.text for e in events if isinstance(e, Text | Reasoning)]
    assert content == "".join(told)


@quick
@given(answers, st.booleans())
def test_completions(events: list[Event], logprobs: bool) -> None:
    *chunks, last = datas(wire(plain(logprobs=logprobs), events))[:-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    whole = collect(plain(logprobs=logprobs), events)
    (choice,) = whole["choices"]
    assert "".join(one["text"] for one in choices) == choice["text"]
    assert choices[-1]["finish_reason"] == choice["finish_reason"]
    assert last["usage"] == whole["usage"]
    columns = [one["logprobs"] for one in choices if one["logprobs"]]
    for name in choice["logprobs"] or ():
        assert [x for column in columns for x in column[name]] == choice["logprobs"][name]


@quick
@given(answers)
def test_responses(events: list[Event]) -> None:
    body = wire(response(), events)
    data = datas(body)
    final = data[-1]["response"]
    assert final == collect(response(), events)
    assert [one["sequence_number"] for one in data] == list(range(len(data)))
    assert [one["type"] for one in data] == [f"response.{name}" for name in names(body)]
    kinds = {kind: [i for i in final["output"] if i["type"] == kind] for kind in KINDS}
    (message,) = kinds["message"]
    assert message["content"][0]["text"] == said(events, Text)
    thoughts = [item["summary"][0]["text"] for item in kinds["reasoning"]]
    assert "".join(thoughts) == said(events, Reasoning)
    made = [(i["call_id"], i["name"], i["arguments"]) for i in kinds["function_call"]]
    assert made == calls(events)
    assert len({item["id"] for item in final["output"]}) == len(final["output"])


KINDS = ("message", "reasoning", "function_call")


@quick
@given(answers)
def test_items_are_announced_filled_and_closed_once(events: list[Event]) -> None:
    data = datas(wire(response(), events))
    open_items: dict[str, int] = {}
    text: dict[str, str] = {}
    for one in data:
        kind = one["type"].removeprefix("response.")
        if kind == "output_item.added":
            item = one["item"]
            assert one["output_index"] == len(text)
            open_items[item["id"]] = one["output_index"]
            text[item["id"]] = ""
        elif kind == "output_item.done":
            assert open_items.pop(one["item"]["id"]) == one["output_index"]
        elif "item_id" in one:
            assert open_items[one["item_id"]] == one["output_index"]
            text[one["item_id"]] += one.get("delta", "")
            if kind.endswith("text.done"):
                assert one["text"] == text[one["item_id"]]
    assert not open_items
    by_id = {item["id"]: item for item in data[-1]["response"]["output"]}
    assert list(by_id) == list(text)


MACHINES: dict[str, Make] = {"chat": chat, "completions": plain, "responses": response}


@pytest.mark.parametrize("make", MACHINES.values(), ids=MACHINES)
@quick
@given(answers, st.integers(0, 12))
def test_a_cut_stream_never_looks_complete(make: Make, events: list[Event], cut: int) -> None:
    kept = events[:-1][:cut]
    body = wire(make(), kept)
    told = datas(body)
    assert "[DONE]" not in told
    assert "response.completed" not in [one.get("type") for one in told]
    assert not [one for one in told if "usage" in one or "usage" in one.get("response", {})]
    whole = datas(wire(make(), events))
    before = told[:-1]
    assert before == whole[: len(before)]  # what was sent before the cut is as it would have been


@pytest.mark.parametrize("make", MACHINES.values(), ids=MACHINES)
@quick
@given(answers)
def test_events_after_the_end_change_nothing(make: Make, events: list[Event]) -> None:
    once = wire(make(), events)
    assert wire(make(), [*events, *events]) == once
    assert isinstance(events[-1], Finish)
