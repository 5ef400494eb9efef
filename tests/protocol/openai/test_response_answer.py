from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helexa.engine.outputs import DraftCounts
from helexa.protocol.openai.projection import collect
from helexa.protocol.openai.usage import response_usage
from helexa.refusals import ModelRecovering, UnfinishedAnswer
from helexa.text.events import Event, Reasoning, Text
from tests.protocol.builders import (
    MESSAGE_ID,
    RESPONSE,
    X,
    call,
    datas,
    finish,
    names,
    response,
    wire,
)

OPENED = ["created", "in_progress"]
MESSAGE_OPENS = ["output_item.added", "content_part.added"]
MESSAGE_CLOSES = ["output_text.done", "content_part.done", "output_item.done", "completed"]
REASONING_OPENS = ["output_item.added", "reasoning_summary_part.added"]
REASONING_CLOSES = [
    "reasoning_summary_text.done",
    "reasoning_summary_part.done",
    "output_item.done",
]
CALL = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


def streamed(events: list[Event]) -> tuple[list[str], list[dict[str, Any]]]:
    body = wire(response(), events)
    return names(body), datas(body)


def message(text: str, status: str = "completed") -> dict[str, Any]:
    return {
        "type": "message",
        "id": MESSAGE_ID,
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
        "status": status,
    }


def reasoning(text: str, run: str = "") -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": f"rs_{X}{run}",
        "summary": [{"type": "summary_text", "text": text}],
        "status": "completed",
    }


def called(at: int = 0) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{X}_{at}",
        "call_id": f"call_{at:032x}",
        "name": "weather",
        "arguments": '{"city":"Brno"}',
        "status": "completed",
    }


def test_n093_text_sequence() -> None:
    sequence, data = streamed([Text("hel"), Text("lo"), finish()])
    text_deltas = ["output_text.delta"] * 2
    assert sequence == [*OPENED, *MESSAGE_OPENS, *text_deltas, *MESSAGE_CLOSES]
    place = {"item_id": MESSAGE_ID, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "hello", "annotations": []}
    shell = {
        "id": RESPONSE.id,
        "object": "response",
        "created_at": RESPONSE.created,
        "status": "in_progress",
        "model": "m",
        "output": [],
    }
    opened = {**message(""), "content": [], "status": "in_progress"}
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    done = {**shell, "status": "completed", "output": [message("hello")], "usage": usage}
    assert data == [
        {"type": f"response.{name}", "sequence_number": at, **fields}
        for at, (name, fields) in enumerate(
            [
                ("created", {"response": shell}),
                ("in_progress", {"response": shell}),
                ("output_item.added", {"output_index": 0, "item": opened}),
                ("content_part.added", {**place, "part": {**part, "text": ""}}),
                ("output_text.delta", {**place, "delta": "hel"}),
                ("output_text.delta", {**place, "delta": "lo"}),
                ("output_text.done", {**place, "text": "hello"}),
                ("content_part.done", {**place, "part": part}),
                ("output_item.done", {"output_index": 0, "item": message("hello")}),
                ("completed", {"response": done}),
            ]
        )
    ]


def test_n094_frames() -> None:
    body = wire(response(), [Reasoning("a"), Text("b"), call(), finish()])
    data = datas(body)
    assert [one["type"] for one in data] == [f"response.{name}" for name in names(body)]
    assert [one["sequence_number"] for one in data] == list(range(len(data)))
    assert b"[DONE]" not in body


def test_n095_reasoning_sequence() -> None:
    sequence, data = streamed([Reasoning("think"), Reasoning("ing"), Text("hi"), finish()])
    assert sequence == [
        *OPENED,
        *REASONING_OPENS,
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        *REASONING_CLOSES,
        *MESSAGE_OPENS,
        "output_text.delta",
        *MESSAGE_CLOSES,
    ]
    place = {"item_id": f"rs_{X}", "output_index": 0}
    opened = {**reasoning(""), "summary": [], "status": "in_progress"}
    told = [
        {"output_index": 0, "item": opened},
        {**place, "summary_index": 0, "part": {"type": "summary_text", "text": ""}},
        {**place, "summary_index": 0, "delta": "think"},
        {**place, "summary_index": 0, "delta": "ing"},
        {**place, "summary_index": 0, "text": "thinking"},
        {**place, "summary_index": 0, "part": {"type": "summary_text", "text": "thinking"}},
        {"output_index": 0, "item": reasoning("thinking")},
    ]
    for at, expected in enumerate(told, start=2):
        assert data[at].items() >= expected.items()
    assert data[9]["output_index"] == 1
    assert data[-1]["response"]["output"] == [reasoning("thinking"), message("hi")]


def test_n096_reasoning_only_length() -> None:
    sequence, data = streamed([Reasoning("thin"), finish("length")])
    assert {"reasoning_summary_part.done", "content_part.added"} <= set(sequence)
    assert sequence[-1] == "completed"
    last = data[-1]["response"]
    assert last["status"] == "incomplete"
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["output"] == [reasoning("thin"), message("", "incomplete")]


def test_n097_tool_family() -> None:
    sequence, data = streamed([call(), finish()])
    assert sequence == [*OPENED, *MESSAGE_OPENS, *CALL, *MESSAGE_CLOSES]
    added, delta, done, closed = data[4:8]
    place = {"item_id": f"fc_{X}_0", "output_index": 1}
    assert added["item"] == {**called(), "arguments": "", "status": "in_progress"}
    assert added["output_index"] == 1
    assert delta.items() >= {**place, "delta": called()["arguments"]}.items()
    told = {"call_id": f"call_{0:032x}", "name": "weather", "arguments": '{"city":"Brno"}'}
    assert done.items() >= {**place, **told}.items()
    assert closed["item"] == called()
    assert data[-1]["response"]["output"] == [message(""), called()]
    assert data[-1]["response"]["status"] == "completed"


def test_n097_reasoning_then_call() -> None:
    sequence, data = streamed([Reasoning("a"), call(), call(1), finish("tool_calls")])
    assert sequence == [
        *OPENED,
        *REASONING_OPENS,
        "reasoning_summary_text.delta",
        *REASONING_CLOSES,
        *MESSAGE_OPENS,
        *CALL,
        *CALL,
        *MESSAGE_CLOSES,
    ]
    indices = [one["output_index"] for one in data if one["type"].endswith("arguments.done")]
    assert indices == [2, 3]
    assert data[-1]["response"]["output"] == [reasoning("a"), message(""), called(), called(1)]


def test_n098_reasoning_after_text() -> None:
    _, data = streamed([Text("a"), Reasoning("b"), Text("c"), Reasoning("d"), finish()])
    assert data[-1]["response"]["output"] == [message("ac"), reasoning("b"), reasoning("d", "_1")]
    added = [one for one in data if one["type"] == "response.output_item.added"]
    assert [one["item"]["type"] for one in added] == ["message", "reasoning", "reasoning"]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            {"prompt": 7413, "completion": 12, "cached": 2068},
            {
                "input_tokens": 7413,
                "output_tokens": 12,
                "total_tokens": 7425,
                "input_tokens_details": {"cached_tokens": 2068},
            },
        ),
        (
            {"prompt": 30, "completion": 12, "reasoning": 4},
            {
                "input_tokens": 30,
                "output_tokens": 12,
                "total_tokens": 42,
                "output_tokens_details": {"reasoning_tokens": 4},
            },
        ),
        (
            {"prompt": 1, "completion": 2},
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
    ],
)
def test_n099_usage(counts: dict[str, int], expected: dict[str, Any]) -> None:
    assert collect(response(), [finish(**counts)])["usage"] == expected


def test_guessed_tokens_are_counted() -> None:
    plain = finish(prompt=1, completion=2)
    told = response_usage(replace(plain.usage, drafts=DraftCounts(12, 7)))
    guesses = {"drafted": 12, "accepted": 7}
    assert told == {**response_usage(plain.usage), "helexa_drafts": guesses}


def test_n100_empty_deltas() -> None:
    events: list[Event] = [Text(""), Reasoning(""), Text("a"), Text(""), finish()]
    sequence, _ = streamed(events)
    assert sequence.count("output_text.delta") == 1
    assert sequence == [*OPENED, *MESSAGE_OPENS, "output_text.delta", *MESSAGE_CLOSES]


def test_n101_no_finish() -> None:
    machine = response()
    frames = [*machine.open(), *machine.push(Reasoning("a")), *machine.push(call())]
    frames += machine.push(Text("half"))
    frames += machine.fail(ModelRecovering("m"))
    body = b"".join(frame.encode() for frame in frames)
    assert names(body)[-1] == "failed"
    assert "completed" not in names(body)
    last = datas(body)[-1]["response"]
    assert last["status"] == "failed"
    assert last["error"]["code"] == "model_recovering"
    assert last["output"] == [reasoning("a"), called()]  # the message was not done


def test_n101_before_any_event() -> None:
    machine = response()
    body = b"".join(frame.encode() for frame in machine.fail(ModelRecovering("m")))
    assert names(body) == ["created", "in_progress", "failed"]
    assert [one["sequence_number"] for one in datas(body)] == [0, 1, 2]
    sequence, data = streamed([])
    assert sequence == ["created", "in_progress", "failed"]
    assert data[-1]["response"]["error"]["code"] == "server_error"
    with pytest.raises(UnfinishedAnswer):
        collect(response(), [])


def test_n102_non_streaming() -> None:
    whole = collect(response(), [Text("hello"), finish()])
    assert whole == {
        "id": RESPONSE.id,
        "object": "response",
        "created_at": RESPONSE.created,
        "status": "completed",
        "model": "m",
        "output": [message("hello")],
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    }
    cut = collect(response(), [Text("hel"), finish("length")])
    assert cut["status"] == "incomplete"
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
    full = collect(response(), [Reasoning("a"), call(), finish()])
    assert full["output"] == [reasoning("a"), message(""), called()]


def test_a_request_may_be_echoed() -> None:
    echo = {"tools": [], "error": None, "incomplete_details": None}
    machine = response(echo=echo)
    body = datas(wire(machine, [finish("length")]))
    assert body[0]["response"].items() >= echo.items()
    assert machine.whole()["incomplete_details"] == {"reason": "max_output_tokens"}
