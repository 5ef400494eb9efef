"""What we write, read by the official client: its types, and its parsing of streams.

The client's types demand a few keys of answers and events that this surface leaves out; they are
named in ``LEFT_OUT``, and nothing else is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from helexa.errors import HelexaError
from helexa.protocol.envelope import wire_error
from helexa.protocol.fields import parse
from helexa.protocol.openai.projection import Projection, collect, stream
from helexa.protocol.openai.responses import ResponseRequest
from helexa.protocol.sse import KEEP_ALIVE
from helexa.refusals import (
    InvalidApiKey,
    InvalidBody,
    ModelNotFound,
    ModelRecovering,
    PrincipalCap,
    QueueFull,
    UnsupportedParameter,
)
from helexa.text.events import Event, Reasoning, Text
from tests.protocol.builders import (
    MARKERS,
    answers,
    call,
    chat,
    datas,
    finish,
    logprob,
    plain,
    quick,
    response,
    wire,
)

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
ECHO = parse(ResponseRequest, {"model": "m", "input": "", "tools": [WEATHER]}).echo()
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LEFT_OUT = {
    "response.output_text.delta": {"logprobs": []},
    "response.output_text.done": {"logprobs": []},
}
DETAILS = {
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """An event or response with the keys that the client's types demand beyond ours."""
    data = {**LEFT_OUT.get(data.get("type", ""), {}), **data}
    if "response" in data:
        data["response"] = filled(data["response"])
    if "usage" in data:
        usage = data["usage"]
        details = {name: {**DETAILS[name], **usage.get(name, {})} for name in DETAILS}
        data["usage"] = {**usage, **details}
    return data


@quick
@given(answers, st.booleans(), st.booleans())
def test_chat_types(events: list[Event], logprobs: bool, thinking: bool) -> None:
    def make() -> Projection:
        return chat(logprobs=logprobs, include_thinking=thinking, markers=MARKERS)

    for data in datas(wire(make(), events))[:-1]:
        ChatCompletionChunk.model_validate(data, strict=True)
    ChatCompletion.model_validate_json(json.dumps(collect(make(), events)), strict=True)


@quick
@given(answers, st.booleans())
def test_completion_types(events: list[Event], logprobs: bool) -> None:
    *chunks, last, _ = datas(wire(plain(logprobs=logprobs), events))
    for data in chunks:
        # The client's type has no room for the reason that is not there yet.
        (choice,) = data["choices"]
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate(data, strict=True)
    Completion.model_validate(last, strict=True)
    Completion.model_validate(collect(plain(logprobs=logprobs), events), strict=True)


@quick
@given(answers)
def test_response_types(events: list[Event]) -> None:
    for data in datas(wire(response(echo=ECHO), events)):
        EVENT.validate_python(filled(data))
    Response.model_validate(filled(collect(response(echo=ECHO), events)))


def serving(status: int, body: bytes, kind: str, **headers: str) -> openai.OpenAI:
    """A client of a server that answers everything in this way, a few bytes at a time."""

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=pieces(), headers={"content-type": kind, **headers})

    return openai.OpenAI(
        api_key="k",
        base_url="http://helexa.test/v1",
        max_retries=0,
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),
    )


def streaming(projection: Projection, events: list[Event]) -> openai.OpenAI:
    body = b"".join(KEEP_ALIVE + frame.encode() for frame in stream(projection, events))
    return serving(200, body, "text/event-stream")


SPOKEN: list[Event] = [
    Reasoning("hm"),
    Text("žluťoučký\u2028kůň ", (logprob,)),
    Text("\n\n😀"),
    call(),
    finish(),
]
USER: Any = [{"role": "user", "content": "Hi"}]


def test_a_chat_stream_through_the_client() -> None:
    client = streaming(chat(logprobs=True), SPOKEN)
    chunks = list(client.chat.completions.create(model="m", messages=USER, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "žluťoučký\u2028kůň \n\n😀"
    (made,) = [one for delta in deltas for one in delta.tool_calls or ()]
    assert made.function is not None
    assert made.function.arguments == '{"city":"Brno"}'
    assert deltas[1].model_extra == {"reasoning_content": "hm"}
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15


def test_the_clients_own_accumulator_agrees_with_the_whole() -> None:
    client = streaming(chat(logprobs=True), SPOKEN)
    with client.chat.completions.stream(model="m", messages=USER) as events:
        summed = events.get_final_completion()
    whole = collect(chat(logprobs=True), SPOKEN)
    message = summed.choices[0].message
    expected = whole["choices"][0]["message"]
    assert message.content == expected["content"]
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"city":"Brno"}'
    assert summed.choices[0].logprobs is not None
    assert summed.choices[0].logprobs.content is not None
    assert len(summed.choices[0].logprobs.content) == 1
    assert summed.usage is not None
    assert summed.usage.completion_tokens == 5


def test_a_completion_stream_through_the_client() -> None:
    client = streaming(plain(), [Text("Hel"), Text("lo"), finish("length")])
    chunks = list(client.completions.create(model="m", prompt="x", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None


def test_a_response_stream_through_the_client() -> None:
    client = streaming(response(echo=ECHO), SPOKEN)
    with client.responses.stream(model="m", input="Hi") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "žluťoučký\u2028kůň \n\n😀"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]


def test_a_response_stream_without_echo_through_the_client() -> None:
    client = streaming(response(), SPOKEN)
    last = list(client.responses.create(model="m", input="Hi", stream=True))[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "žluťoučký\u2028kůň \n\n😀"


@pytest.mark.parametrize("make", [chat, plain], ids=["chat", "completions"])
def test_n082_the_client_raises_what_broke_a_stream(make: Any) -> None:
    machine = make()
    frames = [*machine.open(), *machine.push(Text("a")), *machine.fail(ModelRecovering("m"))]
    client = serving(200, b"".join(frame.encode() for frame in frames), "text/event-stream")
    with pytest.raises(openai.APIError, match="is recovering") as caught:
        list(client.chat.completions.create(model="m", messages=USER, stream=True))
    assert caught.value.code == "model_recovering"


def test_n101_the_client_sees_a_failed_response() -> None:
    machine = response()
    frames = [*machine.push(Text("a")), *machine.fail(ModelRecovering("m"))]
    client = serving(200, b"".join(frame.encode() for frame in frames), "text/event-stream")
    last = list(client.responses.create(model="m", input="Hi", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "model_recovering"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnsupportedParameter("n", param="n"), openai.BadRequestError),
        (InvalidApiKey(), openai.AuthenticationError),
        (ModelNotFound("m"), openai.NotFoundError),
        (InvalidBody("x", param="y"), openai.UnprocessableEntityError),
        (PrincipalCap(2), openai.RateLimitError),
        (QueueFull(7), openai.InternalServerError),
    ],
    ids=lambda case: getattr(case, "__name__", type(case).__name__),
)
def test_n058_errors_become_the_clients_own(
    error: HelexaError, kind: type[openai.APIStatusError]
) -> None:
    wire_form = wire_error(error)
    body = json.dumps(wire_form.body()).encode()
    headers = dict(wire_form.headers())
    client = serving(wire_form.status, body, "application/json", **headers)
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model="m", messages=USER)
    assert caught.value.code == error.code
    assert caught.value.type == error.type
    assert caught.value.param == wire_form.param
    assert caught.value.response.headers.get("retry-after") == headers.get("retry-after")
