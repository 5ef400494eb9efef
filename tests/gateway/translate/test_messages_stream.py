"""Bytes to bytes: whole streams, streams that break off, and what is held meanwhile."""

from __future__ import annotations

import json

import pytest

from helexa.gateway.translate.messages_stream import MessagesStream
from tests.gateway.translate.chunks import (
    call,
    chunk,
    data_of,
    events,
    names,
    said,
    text,
    tokens,
    translated,
    wire,
)

G126 = [
    *("message_start", "content_block_start", *["content_block_delta"] * 4, "content_block_stop"),
    *("message_delta", "message_stop"),
]
EARLY = "upstream stream ended unexpectedly"


def failure(frames: bytes) -> str:
    """What the error says that must be the last event, with no end of the message before it."""
    found = events(frames)
    assert names(found)[-1] == "error"
    assert names(found).count("error") == 1
    assert not {"message_delta", "message_stop"} & set(names(found))
    error = found[-1][1]["error"]
    assert error["type"] == "api_error"
    message: str = error["message"]
    return message


@pytest.mark.parametrize("size", [None, 1, 7])
def test_g126_stream(size: int | None) -> None:
    frames = translated(tokens(4), size=size)
    assert b"chat.completion.chunk" not in frames
    found = events(frames)
    assert names(found) == G126
    assert said(found) == "token0token1token2token3"
    (delta,) = data_of(found, "message_delta")
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"] == {"output_tokens": 4}


def test_g127_stream_usage() -> None:
    counted = chunk(usage={"prompt_tokens": 225, "completion_tokens": 42, "total_tokens": 267})
    (delta,) = data_of(events(translated(wire([text("a"), counted]))), "message_delta")
    assert delta["usage"] == {"input_tokens": 225, "output_tokens": 42}


def test_g132_sse_forms() -> None:
    body = tokens(4)
    noisy = b": hi\n\n" + body.replace(b"\n\n", b"\n\n:\n\ndata: {no\n\ndata: 5\n\ndata: NaN\n\n")
    deep = b"data: " + b"[" * 50_000 + b"\n\n" + body
    for form in (body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r"), noisy, deep):
        for size in (None, 1 if len(form) < 5000 else 999):
            assert translated(form, size=size) == translated(body)


def test_every_frame_comes_with_the_chunk_that_made_it() -> None:
    stream = MessagesStream(thinking=False)
    found = [names(events(stream.feed(wire([text("a")], done=False)))) for _ in range(3)]
    assert found == [
        ["message_start", "content_block_start", "content_block_delta"],
        ["content_block_delta"],
        ["content_block_delta"],
    ]
    assert stream.feed(b"") == b""
    assert stream.feed(b"data: {") == b""
    assert not stream.over


def test_after_the_end_there_is_nothing() -> None:
    stream = MessagesStream(thinking=False)
    ended = stream.feed(tokens(2) + wire([text("more")]))
    assert names(events(ended))[-1] == "message_stop"
    assert said(events(ended)) == "token0token1"
    assert stream.over
    assert not stream.failed
    rest = (stream.feed(wire([text("more")])), stream.ended(), stream.broken())
    assert rest == (b"", b"", b"")


def test_an_end_without_the_mark_is_one_if_a_reason_was_given() -> None:
    whole = wire([text("a"), chunk(finish_reason="length")], done=False)
    found = events(translated(whole))
    assert names(found)[-1] == "message_stop"
    assert data_of(found, "message_delta")[0]["delta"]["stop_reason"] == "max_tokens"


def test_g133_broken() -> None:
    two = wire([text("a"), text("b")], done=False)
    stream = MessagesStream(thinking=False)
    assert failure(stream.feed(two) + stream.broken()) == EARLY
    assert (stream.over, stream.failed) == (True, True)
    assert stream.broken() == stream.ended() == stream.feed(two) == b""
    assert failure(translated(two)) == EARLY
    assert failure(translated(b'data: {"error":{"message":"x"}}\n\n')) == "x"
    assert failure(translated(two + wire([{"error": {"message": "x"}}, text("c")]))) == "x"
    for nothing in (b"data: [DONE]\n\n", b"", b"\n", b"data: {", b": ping\n\n"):
        found = translated(nothing)
        assert failure(found) == EARLY
        assert names(events(found)) == ["error"]
    empty = MessagesStream(thinking=False)
    assert failure(empty.feed(b"data: [DONE]\n\n")) == EARLY
    assert empty.over
    with_reason = MessagesStream(thinking=False)
    reasoned = with_reason.feed(wire([text("a"), chunk(finish_reason="stop")], done=False))
    assert failure(reasoned + with_reason.broken("it stalled")) == "it stalled"


def test_g131_interleaved_calls_end_the_stream() -> None:
    calls = [call(0, name="f"), call(1, name="g"), call(0, arguments="{}"), text("a")]
    frames = translated(wire(calls))
    assert failure(frames) == "interleaved tool calls are not supported"


def test_what_json_cannot_say_ends_the_stream() -> None:
    bad = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments"'
    frames = translated(bad + b':{"x":1e999}}}]}}]}\n\n' + tokens(1))
    assert failure(frames) == "malformed upstream response"


@pytest.mark.parametrize("size", [None, 1, 100])
def test_an_event_beyond_the_limit_ends_the_stream(size: int | None) -> None:
    stream = MessagesStream(thinking=False, max_event_bytes=300)
    body = wire([text("a"), text("b" * 200), text("c")])
    step = size or len(body)
    frames = b"".join(stream.feed(body[at : at + step]) for at in range(0, len(body), step))
    assert failure(frames) == "malformed upstream response"
    assert said(events(frames)) == "a"
    assert stream.over


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_g135_thinking(key: str) -> None:
    thought = {key: "Hm"}
    body = wire([chunk(thought), text("Yes"), chunk(finish_reason="stop")])
    shown, hidden = (events(translated(body, thinking=thinking)) for thinking in (True, False))
    kinds = [
        [data["content_block"]["type"] for data in data_of(found, "content_block_start")]
        for found in (shown, hidden)
    ]
    assert kinds == [["thinking", "text"], ["text"]]


def test_half_a_surrogate_pair_is_passed_on() -> None:
    found = events(translated(wire([text("a\ud83d"), text("\ude00b")])))
    assert json.dumps(said(found)) == json.dumps("a\ud83d\ude00b")
