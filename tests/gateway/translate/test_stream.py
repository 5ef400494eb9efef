"""Chunks to events: blocks that open and close, calls, and how a message ends."""

from __future__ import annotations

from typing import Any

import pytest

from helexa.gateway.translate.stream import INTERLEAVED, StreamTranslator
from helexa.http.faults import UpstreamMalformed
from tests.gateway.translate.chunks import Event, call, chunk, data_of, names, said, text

STOP = chunk(finish_reason="stop")


def run(*chunks: dict[str, Any], thinking: bool = False) -> list[Event]:
    translator = StreamTranslator(thinking)
    found = [event for one in chunks for event in translator.on_chunk(one)]
    return found + translator.finish()


def event(name: str, **data: Any) -> Event:
    return name, {"type": name, **data}


def ending(found: list[Event]) -> dict[str, Any]:
    (delta,) = data_of(found, "message_delta")
    assert found[-1] == ("message_stop", {"type": "message_stop"})
    return {**delta["delta"], **delta["usage"]}


def started(found: list[Event]) -> list[dict[str, Any]]:
    return [data["content_block"] for data in data_of(found, "content_block_start")]


def test_g128_tr_text() -> None:
    found = run(chunk({"role": "assistant", "content": ""}), text("Hel"), text("lo"), STOP)
    message = {
        "id": "msg_chatcmpl-stream-001",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "Qwen/Qwen3-8B",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    assert found == [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"}),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"output_tokens": 2},
        ),
        event("message_stop"),
    ]


def test_g129_tr_finish() -> None:
    assert ending(run(text("a"), chunk(finish_reason="length")))["stop_reason"] == "max_tokens"
    assert ending(run(text("a")))["stop_reason"] == "end_turn"
    counted = chunk(usage={"prompt_tokens": 225, "completion_tokens": 42})
    assert ending(run(text("a"), STOP, counted)) == {
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "input_tokens": 225,
        "output_tokens": 42,
    }
    translator = StreamTranslator(False)
    assert translator.finish() == []
    translator.on_chunk(text("a"))
    assert translator.finish() != []
    assert translator.finish() == []
    assert translator.on_chunk(text("b")) == []


def test_the_last_word_counts() -> None:
    first = chunk({}, finish_reason="length", usage={"prompt_tokens": 1, "completion_tokens": 1})
    last = chunk({}, finish_reason="stop", usage={"prompt_tokens": 2, "completion_tokens": 3})
    found = ending(run(first, last, chunk({}, usage=None)))
    assert (found["stop_reason"], found["input_tokens"]) == ("end_turn", 2)
    assert found["output_tokens"] == 3


def test_g137_usage_of_a_stream() -> None:
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 60}}
    found = ending(run(text("a"), text("b"), STOP, chunk(usage=usage)))
    del found["stop_reason"], found["stop_sequence"]
    assert found == {
        "input_tokens": 40,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 0,
        "output_tokens": 2,
    }


def test_drafts_of_a_stream_are_told_at_its_end() -> None:
    told = {"drafted": 9, "accepted": 4}
    usage = {"prompt_tokens": 1, "completion_tokens": 6, "helexa_drafts": told}
    assert ending(run(text("a"), STOP, chunk(usage=usage)))["helexa_drafts"] == told


def test_g130_tr_tool() -> None:
    found = run(
        text("Let me check."),
        call(id="call_7", name="get_weather", arguments=""),
        call(arguments='{"city":"Brno"}'),
        chunk(finish_reason="tool_calls"),
    )
    assert names(found) == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert found[3][1]["index"] == 0
    assert found[4][1] == {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "call_7", "name": "get_weather", "input": {}},
    }
    assert found[5][1] == {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"city":"Brno"}'},
    }
    assert ending(found)["stop_reason"] == "tool_use"


def test_g131_tr_parallel() -> None:
    translator = StreamTranslator(False)
    fragments = [
        call(0, id="a", name="f", arguments='{"x"'),
        call(0, arguments=":1}"),
        call(1, id="b", name="g", arguments='{"y"'),
        call(1, arguments=":2}"),
    ]
    found = [event for one in fragments for event in translator.on_chunk(one)]
    assert [(one["id"], one["name"]) for one in started(found)] == [("a", "f"), ("b", "g")]
    joined = {0: "", 1: ""}
    for data in data_of(found, "content_block_delta"):
        joined[data["index"]] += data["delta"]["partial_json"]
    assert joined == {0: '{"x":1}', 1: '{"y":2}'}
    assert translator.on_chunk(call(0, arguments="")) == []
    assert translator.on_chunk(call(0, arguments="!")) == [
        (
            "error",
            {"type": "error", "error": {"type": "api_error", "message": INTERLEAVED}},
        )
    ]
    assert translator.over
    assert translator.on_chunk(text("more")) == []
    assert translator.finish() == []


def test_calls_that_all_have_one_index_are_told_apart_by_their_ids() -> None:
    found = run(
        call(0, id="a", name="f", arguments='{"x"'),
        call(0, id="a", name="f", arguments=":1}"),
        call(0, id="b", name="g", arguments='{"y"'),
        call(0, arguments=":2}"),
        chunk(finish_reason="tool_calls"),
    )
    assert [(one["id"], one["name"]) for one in started(found)] == [("a", "f"), ("b", "g")]
    joined = {0: "", 1: ""}
    for data in data_of(found, "content_block_delta"):
        joined[data["index"]] += data["delta"]["partial_json"]
    assert joined == {0: '{"x":1}', 1: '{"y":2}'}


def test_several_calls_in_one_chunk() -> None:
    first, second = (call(n, id=f"c{n}", name="f", arguments="{}") for n in (0, 1))
    entries = [one["choices"][0]["delta"]["tool_calls"][0] for one in (first, second)]
    found = run(chunk({"tool_calls": entries}), STOP)
    assert [one["id"] for one in started(found)] == ["c0", "c1"]
    assert ending(found)["stop_reason"] == "tool_use"
    late = chunk({"tool_calls": [*entries, entries[0], {**entries[0], "index": 2}]})
    assert names(run(late))[-1] == "error"


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    found = run(text("a"), call(name="f", arguments="{}"), text("b"), STOP)
    assert [one["type"] for one in started(found)] == ["text", "tool_use", "text"]
    assert [data["index"] for data in data_of(found, "content_block_stop")] == [0, 1, 2]
    assert names(run(call(name="f"), text("b"), call(arguments="{}")))[-1] == "error"


def test_arguments_as_an_object_are_text_here() -> None:
    found = run(call(name="f", arguments={"city": "Brno", "ž": [1]}))
    assert said(found, "partial_json") == '{"city":"Brno","ž":[1]}'
    with pytest.raises(UpstreamMalformed):
        run(call(name="f", arguments={"x": float("inf")}))


def test_calls_that_lack_something() -> None:
    (unnamed,) = started(run(call(id="c", arguments="{}")))
    assert (unnamed["id"], unnamed["name"]) == ("c", "")
    (made,) = started(run(call(name="f")))
    assert made["id"].startswith("toolu_")
    assert len(made["id"]) == len("toolu_") + 24
    assert started(run(call(id="c"))) == []
    unnumbered = (
        *(call(None, name="f", arguments="1"), call(None, arguments="2")),
        *(call(None, name="g", arguments="3"), call(None, arguments="4")),
    )
    found = run(*unnumbered)
    assert [one["name"] for one in started(found)] == ["f", "g"]
    assert [data["index"] for data in data_of(found, "content_block_delta")] == [0, 0, 1, 1]
    assert said(found, "partial_json") == "1234"


def test_g135_thinking() -> None:
    chunks = [
        chunk({"reasoning_content": "H"}),
        chunk({"reasoning_content": "m", "content": "Yes"}),
        STOP,
    ]
    shown = run(*chunks, thinking=True)
    assert started(shown) == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
    ]
    assert (said(shown, "thinking"), said(shown)) == ("Hm", "Yes")
    assert ending(shown)["output_tokens"] == 1
    hidden = run(*chunks)
    assert started(hidden) == [{"type": "text", "text": ""}]
    assert data_of(hidden, "content_block_start")[0]["index"] == 0
    assert (said(hidden, "thinking"), said(hidden)) == ("", "Yes")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "content_filter"}, ("refusal", None)),
        ({"finish_reason": "function_call"}, ("tool_use", None)),
        ({"finish_reason": "stop", "stop_reason": "END"}, ("stop_sequence", "END")),
        ({"finish_reason": "stop", "stop_reason": 5}, ("end_turn", None)),
        ({"finish_reason": ""}, ("end_turn", None)),
    ],
    ids=str,
)
def test_g136_stop_map(choice: dict[str, Any], expected: tuple[str, str | None]) -> None:
    found = ending(run(text("a"), chunk(**choice)))
    assert (found["stop_reason"], found["stop_sequence"]) == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "x"}, "x"),
        ("x", "x"),
        ({}, "upstream request failed"),
        ({"message": 5}, "upstream request failed"),
    ],
    ids=["object", "text", "empty", "number"],
)
def test_g133_an_error_within_the_stream(error: Any, message: str) -> None:
    translator = StreamTranslator(False)
    translator.on_chunk(text("a"))
    told = {"type": "error", "error": {"type": "api_error", "message": message}}
    assert translator.on_chunk({"error": error}) == [("error", told)]
    assert translator.finish() == []
    assert StreamTranslator(False).on_chunk({"error": error}) == [("error", told)]


def test_another_choice_is_not_part_of_the_message() -> None:
    other = chunk({"content": "b"}, index=1, finish_reason="length")
    found = run(text("a"), other, STOP)
    assert said(found) == "a"
    assert ending(found)["stop_reason"] == "end_turn"
    assert said(run({"choices": [{"delta": {"content": "a"}}]})) == "a"


@pytest.mark.parametrize(
    "odd",
    [
        *({}, {"choices": {}}, {"choices": [5]}, {"choices": [{"index": [], "delta": {}}]}),
        *(chunk({"content": 5}), chunk({"content": None}), chunk({"tool_calls": {}})),
        *(chunk({"tool_calls": [5]}), chunk({"tool_calls": [{"function": 5}]})),
        *({"error": None}, {"usage": 5}, {"choices": [{"delta": 5}]}),
        {"id": 5, "model": None},
    ],
    ids=str,
)
def test_what_is_not_understood_says_nothing(odd: dict[str, Any]) -> None:
    found = run(odd, text("a"), odd, STOP)
    assert names(found) == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert found[0][1]["message"]["id"].startswith("msg_")
    assert isinstance(found[0][1]["message"]["model"], str)
