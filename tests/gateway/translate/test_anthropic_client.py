"""What we write, read by the official client: its types, its streams, its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from helexa.errors import HelexaError
from helexa.gateway.refusals import InvalidAnthropicBody, NoHealthyNodes, UnknownModel
from helexa.gateway.translate.answer import translate_answer
from helexa.gateway.translate.errors import renderer
from helexa.gateway.translate.request import translate_request
from helexa.gateway.translate.sse import PING
from helexa.http.faults import UpstreamTimeout
from helexa.refusals import InsufficientQuota, InvalidApiKey, RequestTooLarge
from tests.gateway.translate.chunks import call, chunk, events, text, translated, wire
from tests.gateway.translate.conversations import messages
from tests.gateway.translate.reverse import chat_completion

quick = settings(max_examples=60, deadline=None)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USER: Any = [{"role": "user", "content": "Hi"}]


def cut(draw: st.DrawFn, whole: str) -> list[str]:
    """A text in pieces, none empty."""
    places = draw(st.lists(st.integers(0, len(whole)), max_size=4).map(sorted))
    pairs = zip([0, *places], [*places, len(whole)], strict=True)
    return [whole[start:end] for start, end in pairs if start < end]


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A chat completion, and the same as the bytes of a stream, cut by chance."""
    whole = chat_completion(draw(messages))
    (choice,) = whole["choices"]
    told = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for key in ("reasoning_content", "content"):
        deltas += [{key: part} for part in cut(draw, told.get(key) or "")]
    for index, made in enumerate(told.get("tool_calls", [])):
        function = made["function"]
        first, *rest = ["", *cut(draw, function["arguments"])]
        opening = {**made, "index": index, "function": {**function, "arguments": first}}
        deltas.append({"tool_calls": [opening]})
        more = [{"index": index, "function": {"arguments": part}} for part in rest]
        deltas += [{"tool_calls": [one]} for one in more]
    ends = {key: choice[key] for key in ("finish_reason", "stop_reason") if key in choice}
    chunks = [*(chunk(delta) for delta in deltas), chunk(**ends), chunk(usage=whole["usage"])]
    return whole, wire({**one, "id": whole["id"], "model": whole["model"]} for one in chunks)


def serving(status: int, body: bytes, kind: str, headers: Any = ()) -> anthropic.Anthropic:
    """A client of a server that answers everything in this way, a few bytes at a time."""

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    def answer(request: httpx2.Request) -> httpx2.Response:
        fields = [*headers, ("content-type", kind)]
        return httpx2.Response(status, content=pieces(), headers=fields)

    return anthropic.Anthropic(
        api_key="k",
        base_url="http://helexa.test",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )


def summed(frames: bytes) -> Message:
    """What the client makes of a stream."""
    client = serving(200, frames, "text/event-stream")
    with client.messages.stream(model="m", max_tokens=5, messages=USER) as stream:
        return stream.get_final_message()


@quick
@given(messages)
def test_a_message_is_of_the_clients_type(message: dict[str, Any]) -> None:
    data = translate_answer(json.dumps(chat_completion(message)).encode(), thinking=True)
    read = Message.model_validate_json(data, strict=True)
    assert read.model_dump(exclude_unset=True) == message


def test_a_client_takes_a_message_with_drafts() -> None:
    """A field of ours is none of its type: it is read all the same, and kept."""
    told = {"drafted": 9, "accepted": 4}
    usage = {"prompt_tokens": 3, "completion_tokens": 7, "helexa_drafts": told}
    stop = chunk(finish_reason="end_turn")
    frames = wire([chunk({"content": "Hi"}), stop, chunk(usage=usage)])
    ends = [data for name, data in events(translated(frames, thinking=True))]
    read = [EVENT.validate_python(data, strict=True) for data in ends]
    assert [event.model_dump(exclude_unset=True) for event in read] == ends
    (found,) = [event.usage for event in read if event.type == "message_delta"]
    assert found.to_dict()["helexa_drafts"] == told
    assert summed(translated(frames, thinking=True)).usage.output_tokens == 7


@quick
@given(streams())
def test_events_are_of_the_clients_types(stream: tuple[dict[str, Any], bytes]) -> None:
    for _, data in events(translated(stream[1], thinking=True)):
        read = EVENT.validate_python(data, strict=True)
        assert read.model_dump(exclude_unset=True) == data


@quick
@given(streams(), st.booleans(), st.integers(1, 40))
def test_a_stream_adds_up_to_the_message(
    stream: tuple[dict[str, Any], bytes], thinking: bool, size: int
) -> None:
    """Only a message without anything differs: a stream of one opens no block."""
    whole, body = stream
    expected = json.loads(translate_answer(json.dumps(whole).encode(), thinking))
    if expected["content"] == [{"type": "text", "text": ""}]:
        expected["content"] = []
    frames = translated(body, thinking=thinking, size=size)
    found = summed(frames).model_dump(include=set(expected), exclude_none=True)
    expected = {key: value for key, value in expected.items() if value is not None}
    expected["usage"] = {key: value for key, value in expected["usage"].items() if value != 0}
    found["usage"] = {key: value for key, value in found["usage"].items() if value != 0}
    assert found == expected


def test_pings_are_passed_over_and_text_comes_as_it_is_said() -> None:
    body = translated(wire([text("žlu\u2028"), text("\n\n😀"), chunk(finish_reason="stop")]))
    pinged = PING + body.replace(b"\n\nevent", b"\n\n" + PING + b"event")
    client = serving(200, pinged, "text/event-stream")
    with client.messages.stream(model="m", max_tokens=5, messages=USER) as stream:
        assert list(stream.text_stream) == ["žlu\u2028", "\n\n😀"]


def test_g130_a_call_through_the_client() -> None:
    fragments = [
        *(text("Let me check."), call(id="call_7", name="get_weather", arguments="")),
        *(call(arguments='{"city":'), call(arguments='"Brno"}'), chunk(finish_reason="tool_calls")),
    ]
    message = summed(translated(wire(fragments)))
    said, used = message.content
    assert (said.type, used.type) == ("text", "tool_use")
    assert used.model_dump(include={"id", "name", "input"}) == {
        "id": "call_7",
        "name": "get_weather",
        "input": {"city": "Brno"},
    }
    assert message.stop_reason == "tool_use"


def test_g133_the_client_raises_what_broke_a_stream() -> None:
    broken = translated(wire([text("a")], done=False))
    with pytest.raises(anthropic.APIStatusError, match="ended unexpectedly"):
        summed(broken)
    client = serving(200, broken, "text/event-stream")
    read = client.messages.create(model="m", max_tokens=5, messages=USER, stream=True)
    with pytest.raises(anthropic.APIStatusError):
        list(read)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidAnthropicBody("a", "b"), anthropic.BadRequestError),
        (InvalidApiKey(), anthropic.AuthenticationError),
        (UnknownModel("m"), anthropic.NotFoundError),
        (RequestTooLarge(5), anthropic.APIStatusError),
        (InsufficientQuota("spent"), anthropic.RateLimitError),
        (NoHealthyNodes(), anthropic.InternalServerError),
        (UpstreamTimeout("x"), anthropic.InternalServerError),
    ],
    ids=lambda case: getattr(case, "__name__", type(case).__name__),
)
def test_g117_errors_become_the_clients_own(
    error: HelexaError, kind: type[anthropic.APIStatusError]
) -> None:
    answer = renderer("req_1")(error)
    fields = [(name.decode(), value.decode()) for name, value in answer.fields]
    client = serving(answer.status, answer.body, "application/json", fields[:-1])
    with pytest.raises(kind) as caught:
        client.messages.create(model="m", max_tokens=5, messages=USER)
    assert caught.value.status_code == error.status
    assert caught.value.request_id == "req_1"
    assert caught.value.body == json.loads(answer.body)


def test_what_the_client_sends_is_translated() -> None:
    """With the options of its own helpers: system blocks, tools, thinking, images."""
    sent: list[Any] = []

    def keep(request: httpx2.Request) -> httpx2.Response:
        sent.append(translate_request(json.loads(request.read())))
        data = translate_answer(json.dumps(chat_completion(ANSWER)).encode(), thinking=True)
        return httpx2.Response(200, content=data, headers={"content-type": "application/json"})

    client = anthropic.Anthropic(
        api_key="k",
        base_url="http://helexa.test",
        http_client=httpx2.Client(transport=httpx2.MockTransport(keep)),
    )
    first = client.messages.create(**ASKED, messages=USER)
    turns: Any = [
        *USER,
        {"role": "assistant", "content": first.content},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "4"}],
        },
    ]
    client.messages.create(**ASKED, messages=turns)
    chat = sent[1].body
    assert [message["role"] for message in chat["messages"]] == [
        *("system", "user", "assistant", "tool")
    ]
    assert chat["messages"][2] == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {
                "id": "toolu_1",
                "type": "function",
                "function": {"name": "add", "arguments": {"a": 2}},
            }
        ],
        "reasoning_content": "Hm.",
    }
    assert sent[1].thinking
    assert chat["stop"] == ["END"]


ASKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 2048,
    "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [{"name": "add", "input_schema": {"type": "object"}}],
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
}
ANSWER: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 2}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
