from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helexa.engine.outputs import CacheReport, DraftCounts
from helexa.protocol.openai.projection import collect, stream
from helexa.protocol.openai.usage import chat_usage
from helexa.refusals import ModelRecovering, UnfinishedAnswer
from helexa.text.events import Event, Reasoning, Text, TokenLogprob
from tests.protocol.builders import (
    CHAT,
    MARKERS,
    call,
    chat,
    datas,
    deltas,
    finish,
    logprob,
    usage,
    wire,
)

HEAD = {"id": CHAT.id, "created": CHAT.created, "model": "m"}


def test_n073_frames() -> None:
    body = wire(chat(), [Text("hi"), finish()])
    assert deltas(body) == [
        ("role", "assistant"),
        ("content", "hi"),
        ("finish", "stop"),
        ("usage", chat_usage(usage())),
        ("done", None),
    ]
    *chunks, last = datas(body)
    assert last == "[DONE]"
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert {name: chunk[name] for name in HEAD} == HEAD
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        [],
    ]
    assert ["usage" in chunk for chunk in chunks] == [False, False, False, True]


def test_n073_no_finish() -> None:
    assert deltas(wire(chat(), [])) == [("role", "assistant"), ("error", None)]
    with pytest.raises(UnfinishedAnswer):
        collect(chat(), [Text("hi")])


def test_the_bytes_of_a_stream() -> None:
    """Compared whole: key order and spacing are part of what some readers match on."""
    head = f'data: {{"id":"{CHAT.id}","object":"chat.completion.chunk","created":1700000000'
    head += ',"model":"m","choices":['
    timing = '"helexa_timing":{"prefill_ms":0,"decode_ms":0,"prefill_tokens":0}'
    counts = '"prompt_tokens":10,"completion_tokens":5,"total_tokens":15'
    assert wire(chat(), [Text("h\ni"), finish()]).decode() == (
        f'{head}{{"index":0,"delta":{{"role":"assistant"}},"finish_reason":null}}]}}\n\n'
        f'{head}{{"index":0,"delta":{{"content":"h\\ni"}},"finish_reason":null}}]}}\n\n'
        f'{head}{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}\n\n'
        f'{head}],"usage":{{{counts},{timing}}}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_n074_usage() -> None:
    timed = chat_usage(usage(42, 5, reasoning=2, timing=(199.6, 1500.2, 128)))
    assert timed == {
        "prompt_tokens": 42,
        "completion_tokens": 5,
        "total_tokens": 47,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "helexa_timing": {"prefill_ms": 200, "decode_ms": 1500, "prefill_tokens": 128},
    }
    cached = chat_usage(usage(7413, 12, cached=2068))
    assert cached["prompt_tokens_details"] == {"cached_tokens": 2068}
    assert cached["total_tokens"] == 7425
    assert not {"completion_tokens_details", "prompt_tokens_details"} & chat_usage(usage()).keys()
    why = chat_usage(usage(cache=CacheReport(3, "diverged", 7, 9)))
    assert why["helexa_cache"] == {"cached_tokens": 3, "diverged_at": 7, "reason": "diverged"}
    assert "helexa_cache" not in cached
    guessed = chat_usage(replace(usage(), drafts=DraftCounts(12, 7)))
    assert guessed["helexa_drafts"] == {"drafted": 12, "accepted": 7}
    assert "helexa_drafts" not in why


def test_n074_usage_is_on_the_usage_chunk_and_the_whole() -> None:
    end = finish(prompt=42, completion=5, reasoning=2, timing=(200, 1500, 128))
    (found,) = [value for what, value in deltas(wire(chat(), [end])) if what == "usage"]
    assert found == collect(chat(), [end])["usage"] == chat_usage(end.usage)


def test_n075_usage_always() -> None:
    assert ("usage", chat_usage(usage())) in deltas(wire(chat(), [finish()]))


def test_n076_empty_deltas() -> None:
    events: list[Event] = [Text(""), Reasoning(""), Text("", (logprob,)), finish()]
    for options in ({}, {"include_thinking": True, "markers": MARKERS}, {"logprobs": True}):
        assert [what for what, _ in deltas(wire(chat(**options), events))] == [
            "role",
            "finish",
            "usage",
            "done",
        ]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([finish("length")], "length"),
        ([call(), finish("stop")], "tool_calls"),
        ([call(), finish("tool_calls")], "tool_calls"),
        ([call(), finish("length")], "length"),
        ([finish("stop")], "stop"),
    ],
)
def test_n077_finish_map(events: list[Event], reason: str) -> None:
    assert ("finish", reason) in deltas(wire(chat(), events))
    assert collect(chat(), events)["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([replace(finish("stop"), stop="END")], {"finish_reason": "stop", "stop_reason": "END"}),
        ([finish("stop")], {"finish_reason": "stop"}),
        ([call(), replace(finish("tool_calls"), stop="END")], {"finish_reason": "tool_calls"}),
    ],
    ids=["stop string", "end token", "calls are what matters"],
)
def test_the_stop_string_is_named(events: list[Event], told: dict[str, str]) -> None:
    chunks = [frame.data for frame in stream(chat(), events)]
    last = chunks[-3]["choices"][0]  # before usage and the end mark
    (whole,) = collect(chat(), events)["choices"]
    for choice in (last, whole):
        assert {key: choice[key] for key in choice if key.endswith("_reason")} == told


def test_n078_reasoning() -> None:
    events = [Reasoning("hm "), Reasoning("so"), Text("yes"), finish()]
    assert deltas(wire(chat(markers=MARKERS), events))[:4] == [
        ("role", "assistant"),
        ("reasoning_content", "hm "),
        ("reasoning_content", "so"),
        ("content", "yes"),
    ]
    assert collect(chat(), events)["choices"][0]["message"] == {
        "role": "assistant",
        "content": "yes",
        "reasoning_content": "hm so",
    }


@pytest.mark.parametrize(
    ("markers", "events", "contents"),
    [
        (
            MARKERS,
            [Reasoning("first "), Reasoning("second"), Text("answer"), finish()],
            ["<think>", "first ", "second", "</think>", "answer"],
        ),
        (
            MARKERS,
            [Reasoning("thinking..."), finish("length")],
            ["<think>", "thinking...", "</think>"],
        ),
        (None, [Reasoning("raw"), Text("!"), finish()], ["raw", "!"]),
        (
            MARKERS,
            [Reasoning("a"), call(), Reasoning("b"), Text(""), Reasoning("c"), finish()],
            ["<think>", "a", "</think>", "<think>", "b", "c", "</think>"],
        ),
    ],
    ids=["text", "cut", "no_markers", "around_a_call"],
)
def test_n079_include_thinking(
    markers: tuple[str, str] | None, events: list[Event], contents: list[str]
) -> None:
    options: dict[str, Any] = {"include_thinking": True, "markers": markers}
    found = deltas(wire(chat(**options), events))
    assert [value for what, value in found if what == "content"] == contents
    assert "reasoning_content" not in dict(found)
    message = collect(chat(**options), events)["choices"][0]["message"]
    assert message["content"] == "".join(contents)
    assert "reasoning_content" not in message


def test_n079_the_marker_closes_before_the_call() -> None:
    events = [Reasoning("a"), call(), finish()]
    found = deltas(wire(chat(include_thinking=True, markers=MARKERS), events))
    assert [what for what, _ in found] == [
        *("role", "content", "content", "content"),
        *("tool_calls", "finish", "usage", "done"),
    ]


def test_n080_tool_chunk() -> None:
    events = [Text("Let me check.\n"), call(), Text("\nand\n"), call(1, "f", "{}"), finish()]
    found = [value for what, value in deltas(wire(chat(), events)) if what == "tool_calls"]
    assert found[0] == [
        {
            "index": 0,
            "id": f"call_{0:032x}",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Brno"}'},
        }
    ]
    assert found[1][0]["index"] == 1
    message = collect(chat(), events)["choices"][0]["message"]
    assert message["content"] == "Let me check.\n\nand\n"
    assert [{"index": at, **made} for at, made in enumerate(message["tool_calls"])] == [
        one for (one,) in found
    ]


def test_n069_one_call_only_has_empty_content() -> None:
    message = collect(chat(), [call(), finish()])["choices"][0]["message"]
    assert message["content"] == ""


def test_n082_failure() -> None:
    machine = chat()
    frames = [*machine.open(), *machine.push(Text("a")), *machine.fail(ModelRecovering("m"))]
    body = b"".join(frame.encode() for frame in frames)
    assert deltas(body) == [
        ("role", "assistant"),
        ("content", "a"),
        ("error", "model_recovering"),
    ]
    assert datas(body)[-1] == {
        "error": {
            "message": "model 'm' is recovering; retry shortly",
            "type": "api_error",
            "code": "model_recovering",
            "param": None,
            "model_id": "m",
        }
    }


def test_a_stream_ends_once() -> None:
    machine = chat()
    list(stream(machine, [finish()]))
    assert machine.finished
    assert machine.push(Text("more")) == machine.fail(ValueError()) == machine.end() == []
    failed = chat()
    assert len(failed.fail(ValueError("x"))) == 1
    assert failed.fail(ValueError("x")) == failed.push(finish()) == failed.end() == []
    with pytest.raises(UnfinishedAnswer):
        failed.whole()


def test_opening_twice_or_not_at_all_is_the_same() -> None:
    machine = chat()
    assert len(machine.open()) == 1
    assert machine.open() == []
    assert len(chat().push(Text("a"))) == 2


def test_logprobs_are_on_content_chunks() -> None:
    never = TokenLogprob(2, "x", b"x", float("-inf"))
    odd = TokenLogprob(3, "�", b"\xc5", -1.0, (never,))
    events = [Reasoning("r"), Text("hi", (logprob,)), Text("ů", (odd,)), Text("!"), finish()]
    told = [
        {
            "token": "hi",
            "logprob": -0.5,
            "bytes": [104, 105],
            "top_logprobs": [{"token": "hi", "logprob": -0.5, "bytes": [104, 105]}],
        },
        {
            "token": "�",
            "logprob": -1.0,
            "bytes": [197],
            "top_logprobs": [{"token": "x", "logprob": -9999.0, "bytes": [120]}],
        },
    ]
    chunks = datas(wire(chat(logprobs=True), events))[:-1]
    found = [chunk["choices"][0].get("logprobs") for chunk in chunks if chunk["choices"]]
    assert found == [
        None,
        None,
        {"content": told[:1]},
        {"content": told[1:]},
        {"content": []},
        None,
    ]
    whole = collect(chat(logprobs=True), events)["choices"][0]
    assert whole["logprobs"] == {"content": told}
    assert "logprobs" not in collect(chat(), events)["choices"][0]
    assert b"logprobs" not in wire(chat(), events)


def test_whole_answer() -> None:
    assert collect(chat(), [Text("hi"), finish()]) == {
        "id": CHAT.id,
        "object": "chat.completion",
        "created": CHAT.created,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi"},
                "finish_reason": "stop",
            }
        ],
        "usage": chat_usage(usage()),
    }
