"""Whole answers: what each part of a chat completion becomes in a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.gateway.translate.answer import translate_answer, translate_response
from helexa.http.faults import UpstreamMalformed

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def completion(message: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    told = {"role": "assistant", "content": "Hello from mock backend"}
    return {
        "id": "chatcmpl-test-001",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "test-model",
        "choices": [
            {"index": 0, "message": message or told, "finish_reason": "stop", **choice},
        ],
        "usage": USAGE,
    }


def call(arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    function = {"name": "Read", "arguments": arguments}
    return {"id": "call_7", "type": "function", "function": function, **more}


def content(message: dict[str, Any], *, thinking: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = translate_response(completion(message), thinking)["content"]
    return found


def test_g115_round_trip() -> None:
    message = translate_response(completion(), False)
    assert message == {
        "id": "msg_chatcmpl-test-001",
        "type": "message",
        "role": "assistant",
        "model": "test-model",
        "content": [{"type": "text", "text": "Hello from mock backend"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }
    assert json.loads(translate_answer(json.dumps(completion()).encode(), False)) == message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"path":"/etc/hosts"}', {"path": "/etc/hosts"}),
        ({"path": "/etc/hosts"}, {"path": "/etc/hosts"}),
        ('{"path":', {"_raw": '{"path":'}),
        ("[1]", {"_raw": "[1]"}),
        ('{"x":NaN}', {"_raw": '{"x":NaN}'}),
        ('{"x":1e999}', {"_raw": '{"x":1e999}'}),
        ('{"x":"\ud800"}', {"_raw": '{"x":"\ud800"}'}),
        ("[" * 100_000, {"_raw": "[" * 100_000}),
        ([1], {"_raw": "[1]"}),
        ("", {}),
        (None, {}),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_g125_tool_calls_back(arguments: Any, expected: Any) -> None:
    told = {"role": "assistant", "content": None, "tool_calls": [call(arguments)]}
    answer = completion(told, finish_reason="tool_calls")
    message = translate_response(answer, False)
    assert message["content"] == [
        {"type": "tool_use", "id": "call_7", "name": "Read", "input": expected}
    ]
    assert message["stop_reason"] == "tool_use"
    assert translate_answer(json.dumps(answer).encode(), False)


def test_a_stop_with_a_call_is_a_call() -> None:
    told = {"content": "Let me see.", "tool_calls": [call(), call(id="call_8")]}
    message = translate_response(completion(told), False)
    assert [block["type"] for block in message["content"]] == ["text", "tool_use", "tool_use"]
    assert message["stop_reason"] == "tool_use"


def test_a_call_without_an_id_is_given_one() -> None:
    told = {"tool_calls": [call(id=None), {"type": "function"}, 5]}
    first, second = content(told)
    assert first["id"].startswith("toolu_")
    assert len(first["id"]) == len("toolu_") + 24
    assert first["id"] != second["id"]
    assert (second["name"], second["input"]) == ("", {})


def test_g135_thinking() -> None:
    told = {"reasoning_content": "Hm.", "content": "Yes."}
    assert content(told, thinking=True) == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    assert content(told) == [{"type": "text", "text": "Yes."}]
    assert content({"reasoning_content": "", "content": "Yes."}, thinking=True) == content(told)
    others = {"reasoning": "Hm.", "content": "Yes."}  # as some servers call it
    assert content(others, thinking=True) == content(told, thinking=True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "x"}, 5], "ab"),
        (None, ""),
        ("", ""),
        (5, ""),
    ],
    ids=["parts", "null", "empty", "number"],
)
def test_content_is_one_text(said: Any, expected: str) -> None:
    assert content({"content": said}) == [{"type": "text", "text": expected}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "stop"}, ("end_turn", None)),
        ({"finish_reason": "length"}, ("max_tokens", None)),
        ({"finish_reason": "tool_calls"}, ("tool_use", None)),
        ({"finish_reason": "function_call"}, ("tool_use", None)),
        ({"finish_reason": "content_filter"}, ("refusal", None)),
        ({"finish_reason": None}, ("end_turn", None)),
        ({"finish_reason": "pause_turn"}, ("pause_turn", None)),
        ({"finish_reason": 5}, ("end_turn", None)),
        ({"stop_reason": "END"}, ("stop_sequence", "END")),
        ({"stop_reason": 151_643}, ("end_turn", None)),
        ({"stop_reason": None, "finish_reason": "length"}, ("max_tokens", None)),
    ],
    ids=str,
)
def test_g136_stop_map(choice: dict[str, Any], expected: tuple[str, str | None]) -> None:
    message = translate_response(completion(**choice), False)
    assert (message["stop_reason"], message["stop_sequence"]) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 60},
            },
            {
                "input_tokens": 40,
                "output_tokens": 5,
                "cache_read_input_tokens": 60,
                "cache_creation_input_tokens": 0,
            },
        ),
        (
            {"prompt_tokens": 100, "cached_tokens": 0, "prompt_tokens_details": None},
            {
                "input_tokens": 100,
                "output_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation_input_tokens": 0,
            },
        ),
        (
            {"prompt_tokens": 5, "cached_tokens": 9, "completion_tokens": None},
            {
                "input_tokens": 0,
                "output_tokens": 0,
                "cache_read_input_tokens": 9,
                "cache_creation_input_tokens": 0,
            },
        ),
        (
            {"prompt_tokens": "5", "completion_tokens": -1},
            {"input_tokens": 0, "output_tokens": 0},
        ),
        (
            {"prompt_tokens": 5, "helexa_drafts": {"drafted": 3, "accepted": 2, "x": 1}},
            {
                "input_tokens": 5,
                "output_tokens": 0,
                "helexa_drafts": {"drafted": 3, "accepted": 2},
            },
        ),
        (
            {"prompt_tokens": 5, "helexa_drafts": {"drafted": 3, "accepted": "2"}},
            {"input_tokens": 5, "output_tokens": 0},
        ),
        ({"helexa_drafts": 3}, {"input_tokens": 0, "output_tokens": 0}),
        (None, {"input_tokens": 0, "output_tokens": 0}),
    ],
    ids=["cached", "none cached", "odd", "wrong", "drafts", "half drafts", "no drafts", "absent"],
)
def test_g137_usage(usage: Any, expected: dict[str, Any]) -> None:
    assert translate_response({**completion(), "usage": usage}, False)["usage"] == expected


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"\xff", b"[]", b"{}", b"null", b"[" * 100_000),
        *(b'{"choices":[]}', b'{"choices":[{}]}', b'{"choices":{"message":{}}}'),
        b'{"choices":[{"message":"Hi"}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":{"x":1e999}}}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":[1e999]}}]}}]}',
    ],
    ids=lambda body: repr(body)[:30],
)
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(UpstreamMalformed) as caught:
        translate_answer(body, False)
    assert caught.value.status == 502


def test_an_answer_that_lacks_what_goes_around_it() -> None:
    message = translate_response({"choices": [{"message": {}}]}, True)
    assert message["id"].startswith("msg_")
    assert (message["model"], message["content"]) == ("", [{"type": "text", "text": ""}])
