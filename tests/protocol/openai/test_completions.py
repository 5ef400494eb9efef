from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helexa.errors import InvalidRequest
from helexa.protocol.fields import parse
from helexa.protocol.openai.completions import CompletionCall, CompletionRequest
from helexa.protocol.openai.projection import collect
from helexa.text.events import Reasoning, Text, TokenLogprob
from tests.protocol.builders import PLAIN, call, datas, finish, logprob, plain, wire


def called(**fields: Any) -> CompletionCall:
    return parse(CompletionRequest, {"model": "m", **fields}).call()


def refused(**fields: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        called(**fields)
    return caught.value.status, caught.value.code, caught.value.param


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("once", "once"),
        (["once"], "once"),
        ([1, 2], (1, 2)),
        ([[1, 2]], (1, 2)),
        ("", ""),
        ([], ()),
        ([[]], ()),
    ],
)
def test_n085_prompts(prompt: Any, expected: Any) -> None:
    call = called(prompt=prompt)
    assert call.prompt == expected
    assert call.sampling == {"max_tokens": 16}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"prompt": "a", "n": 2}, "n"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
    ],
)
def test_n085_unsupported(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    "prompt", [None, 5, {}, [1, "a"], ["a", 1], [[1], 2], [-1], [1.5], [True], [["a"]], [None]]
)
def test_prompts_of_the_wrong_type(prompt: Any) -> None:
    assert refused(prompt=prompt) == (422, "invalid_request_body", "prompt")


def test_logprobs_are_a_number_here() -> None:
    assert called(prompt="a", logprobs=5).sampling["logprobs"] == 5
    assert refused(prompt="a", logprobs=6) == (400, "invalid_value", "logprobs")
    assert refused(prompt="a", logprobs=True)[0] == 422
    assert called(prompt="a", echo=False, suffix="", best_of=1, max_tokens=0).sampling == {
        "max_tokens": 0
    }


EVENTS = [Text("Hel"), Text("lo"), finish("length", prompt=3, completion=2)]


def test_n085_stream() -> None:
    *chunks, done = datas(wire(plain(), EVENTS))
    assert done == "[DONE]"
    assert all(
        chunk | {"choices": 0, "usage": 0}
        == {
            "id": PLAIN.id,
            "object": "text_completion",
            "created": PLAIN.created,
            "model": "m",
            "choices": 0,
            "usage": 0,
        }
        for chunk in chunks
    )
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": "Hel", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "lo", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}],
        [],
    ]
    assert [chunk for chunk in chunks if "usage" in chunk] == [chunks[-1]]
    assert chunks[-1]["usage"]["total_tokens"] == 5


def test_n085_whole() -> None:
    machine = plain()
    wire(machine, EVENTS)
    whole = machine.whole()
    assert list(whole) == ["id", "object", "created", "model", "choices", "usage"]
    assert whole["choices"] == [
        {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}
    ]


def test_the_stop_string_is_named() -> None:
    (choice,) = collect(plain(), [replace(finish(), stop="END")])["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")


def test_everything_said_is_text() -> None:
    machine = plain()
    wire(machine, [Reasoning("a"), Text(""), Text("b"), call(), finish("tool_calls")])
    (choice,) = machine.whole()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")


def test_logprobs_come_in_columns() -> None:
    half = TokenLogprob(7, "�", b"\xc5", -1.0)
    other = TokenLogprob(8, "�", b"\xc6", -2.0)
    never = TokenLogprob(9, "x", b"x", float("-inf"))
    odd = TokenLogprob(7, "�", b"\xc5", -1.0, (half, other, never))
    machine = plain(logprobs=True)
    body = wire(machine, [Text("hi", (logprob,)), Text("ů", (odd,)), Text("!"), finish()])
    assert machine.whole()["choices"][0]["logprobs"] == {
        "tokens": ["hi", "�"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"hi": -0.5}, {"x": -9999.0, "�": -1.0}],
        "text_offset": [0, 2],
    }
    columns = [
        data["choices"][0]["logprobs"]
        for data in datas(body)
        if data != "[DONE]" and data["choices"]
    ]
    assert columns[1]["text_offset"] == [2]
    assert columns[2]["tokens"] == []
    assert columns[3] is None
