"""Anthropic's official client, through a gateway, against a real model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

import anthropic
import anyio
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_tool
from anthropic.types import Message
from pydantic import BaseModel

from tests.gateway.clients.asked import (
    CITY,
    GOOD,
    GREEDY,
    HELLO,
    PARIS,
    PICTURE,
    PONG,
    ROLLING,
    SMALL,
    SPENT,
    SUM,
    SUNNY,
    TOO_LONG,
    WEATHER,
    user,
)
from tests.gateway.gateway_process import GatewayProcess
from tests.neuron.daemon_process import TINY, Daemon

# The client has no word for the temperature; without one, the built-in model would draw.
ASKED: Any = {"model": SMALL, "max_tokens": 60, "extra_body": GREEDY}
TOOL: Any = {"name": "get_weather", "description": WEATHER["description"], "input_schema": CITY}
ADD: Any = {
    "name": "add_numbers",
    "description": "Add two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
THINK: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1200}
IMAGE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": PICTURE},
}

DOCUMENT: Any = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "Nobody would read this."},
}


def said(message: Any) -> str:
    """The text of a message."""
    return "".join(block.text for block in message.content if block.type == "text")


def streamed(client: Anthropic, **asked: Any) -> Message:
    """The same, asked for as a stream and added up by the client."""
    with client.messages.stream(**{**ASKED, **asked}) as stream:
        return stream.get_final_message()


def both(client: Anthropic, **asked: Any) -> Message:
    """A message, after it was seen that a stream of it comes to the same."""
    whole = client.messages.create(**{**ASKED, **asked})
    summed = streamed(client, **asked)
    assert told(summed) == told(whole)
    return whole


def told(message: Message) -> dict[str, Any]:
    """What two answers to one question have in common: all but ids and the cache."""
    usage = message.usage
    read = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    blocks = [block.model_dump(exclude={"id"}) for block in message.content]
    return {
        **message.model_dump(include={"role", "type", "model", "stop_reason", "stop_sequence"}),
        "content": blocks,
        "usage": (read, usage.output_tokens),
    }


def test_a_message(theirs: Anthropic) -> None:
    message = both(theirs, messages=HELLO)
    assert (message.type, message.role, message.model) == ("message", "assistant", TINY)
    assert "tiny" in said(message)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.id.startswith("msg_chatcmpl-")
    assert message.usage.output_tokens > 5


def test_a_stream_comes_as_it_is_said(theirs: Anthropic) -> None:
    with theirs.messages.stream(**ASKED, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
        assert stream.get_final_text() == "".join(pieces)
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.request_id
    assert len(pieces) > 5
    events = theirs.messages.create(**ASKED, messages=HELLO, stream=True)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_async_client(gw: GatewayProcess) -> None:
    async def main() -> tuple[Message, Message]:
        client = AsyncAnthropic(base_url=gw.url, auth_token=GOOD, max_retries=0)
        async with client:
            whole = await client.messages.create(**ASKED, messages=HELLO)
            async with client.messages.stream(**ASKED, messages=HELLO) as stream:
                return whole, await stream.get_final_message()

    for backend in ("asyncio", "trio"):
        whole, summed = anyio.run(main, backend=backend)
        assert told(whole) == told(summed)


# --- what was cut, and how ------------------------------------------------------------------------


def test_a_stop_sequence_is_named(theirs: Anthropic) -> None:
    message = both(theirs, messages=HELLO, stop_sequences=["never said", "tiny"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "tiny")
    assert said(message).endswith("I am ")


def test_max_tokens(theirs: Anthropic) -> None:
    message = both(theirs, messages=HELLO, max_tokens=3)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


# --- system, counts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "system",
    [
        PONG,
        [{"type": "text", "text": PONG, "cache_control": {"type": "ephemeral"}}],
        [{"type": "text", "text": PONG[:14]}, {"type": "text", "text": PONG[14:]}],
    ],
    ids=["text", "cached", "blocks"],
)
def test_the_system_prompt(theirs: Anthropic, system: Any) -> None:
    message = theirs.messages.create(**ASKED, messages=HELLO, system=system)
    counted = theirs.messages.count_tokens(model=SMALL, messages=HELLO, system=system)
    bare = theirs.messages.count_tokens(model=SMALL, messages=HELLO)
    assert told(message)["usage"][0] == counted.input_tokens > bare.input_tokens
    if len(system) != 2:  # a line break in the middle of its sentence is too much for it
        assert said(message) == "PONG"


@pytest.mark.parametrize(
    "fields",
    [{}, {"tools": [TOOL, ADD]}, {"thinking": THINK["thinking"]}],
    ids=["plain", "tools", "thinking"],
)
def test_a_count_is_what_is_charged(theirs: Anthropic, fields: dict[str, Any]) -> None:
    raw = theirs.messages.with_raw_response.count_tokens(model=SMALL, messages=PARIS, **fields)
    assert raw.headers["x-helexa-token-count"] == "exact"
    message = theirs.messages.create(**{**ASKED, "max_tokens": 1}, messages=PARIS, **fields)
    assert told(message)["usage"][0] == raw.parse().input_tokens


def test_what_the_cache_knew_is_counted_apart(theirs: Anthropic) -> None:
    tale = user("A goat, a cat and a map of the garden were mentioned here, twice. " * 4)
    first = theirs.messages.create(**{**ASKED, "max_tokens": 1}, messages=tale)
    again = theirs.messages.create(**{**ASKED, "max_tokens": 1}, messages=tale)
    assert (again.usage.cache_read_input_tokens or 0) > 0
    assert again.usage.cache_creation_input_tokens == 0
    assert told(again)["usage"] == told(first)["usage"]
    assert again.usage.input_tokens < first.usage.input_tokens


# --- thinking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [THINK, {**THINK, "thinking": {"type": "adaptive"}}])
def test_thinking_stands_before_the_text(theirs: Anthropic, asked: dict[str, Any]) -> None:
    message = both(theirs, messages=SUM, **asked)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert "19" in said(message)
    turns = [*SUM, {"role": "assistant", "content": message.content}, *user("Are you sure?")]
    again = theirs.messages.create(**{**ASKED, **asked}, messages=turns)
    assert again.content


@pytest.mark.parametrize("asked", [{}, {"thinking": {"type": "disabled"}}], ids=["unasked", "off"])
def test_nobody_thinks_unless_asked(theirs: Anthropic, asked: dict[str, Any]) -> None:
    message = both(theirs, messages=SUM, **asked)
    assert [block.type for block in message.content] == ["text"]
    assert "19" in said(message)


# --- tools ----------------------------------------------------------------------------------------


def test_a_tool_is_used_and_its_result_is_read(theirs: Anthropic) -> None:
    first = both(theirs, messages=PARIS, tools=[TOOL, ADD])
    assert first.stop_reason == "tool_use"
    (used,) = [block for block in first.content if block.type == "tool_use"]
    assert (used.name, used.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": used.id}
    for content in (SUNNY, [{"type": "text", "text": SUNNY}]):
        turns = [
            *PARIS,
            {"role": "assistant", "content": first.content},
            *user([{**result, "content": content}]),
        ]
        second = both(theirs, messages=turns, tools=[TOOL, ADD])
        assert "sunny" in said(second)
        assert second.stop_reason == "end_turn"


def test_input_comes_as_json(theirs: Anthropic) -> None:
    with theirs.messages.stream(**ASKED, messages=PARIS, tools=[TOOL]) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
    assert "".join(pieces).replace(" ", "") == '{"city":"Paris"}'


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "auto"}, []),
        ({"type": "any", "disable_parallel_tool_use": True}, ["get_weather", "add_numbers"]),
        ({"type": "tool", "name": "add_numbers"}, ["add_numbers"]),
        ({"type": "none"}, []),
    ],
    ids=lambda case: case["type"] if isinstance(case, dict) else "",
)
def test_the_choice_of_a_tool(theirs: Anthropic, choice: Any, names: list[str]) -> None:
    asked = {"messages": HELLO, "tools": [TOOL, ADD], "tool_choice": choice, "max_tokens": 100}
    message = both(theirs, **asked)
    used = [block.name for block in message.content if block.type == "tool_use"]
    assert bool(used) == bool(names)
    assert set(used) <= set(names)
    assert message.stop_reason == ("tool_use" if names else "end_turn")


def test_the_clients_own_loop_over_tools(theirs: Anthropic) -> None:
    """It first asks for a thread that the server keeps, is told that there is none, and goes on."""
    asked: list[str] = []

    @beta_tool
    def get_weather(city: str) -> str:
        """Get the weather in a city.

        Args:
            city: The city.
        """
        asked.append(city)
        return SUNNY

    runner = theirs.beta.messages.tool_runner(**ASKED, messages=PARIS, tools=[get_weather])
    assert "sunny" in said(runner.until_done())
    assert asked == ["Paris"]


class Pet(BaseModel):
    """A class that the client turns into a schema."""

    kind: Literal["cat", "goat"]
    tame: bool


def test_the_client_parses_an_answer_into_a_class(theirs: Anthropic) -> None:
    message = theirs.messages.parse(**ASKED, messages=user("Which pet?"), output_format=Pet)
    assert isinstance(message.parsed_output, Pet)


# --- models, errors -------------------------------------------------------------------------------


def test_models_are_listed(theirs: Anthropic) -> None:
    assert [model.id for model in theirs.models.list()] == [TINY, SMALL]
    assert theirs.models.retrieve(SMALL).id == SMALL


BadRequest, RateLimit = anthropic.BadRequestError, anthropic.RateLimitError


@pytest.mark.parametrize(
    ("key", "asked", "kind", "code"),
    [
        ("sk-wrong", {}, anthropic.AuthenticationError, "invalid_api_key"),
        (GOOD, {"model": "o/absent"}, anthropic.NotFoundError, "model_not_found"),
        (GOOD, {"max_tokens": 0}, BadRequest, "invalid_anthropic_body"),
        (GOOD, {"extra_body": {"temperature": "hot"}}, BadRequest, "invalid_anthropic_body"),
        (GOOD, {"messages": TOO_LONG}, BadRequest, "context_length_exceeded"),
        (GOOD, {"messages": user([IMAGE])}, BadRequest, "vision_unsupported"),
        (GOOD, {"messages": user([DOCUMENT])}, BadRequest, "unsupported_parameter"),
        (GOOD, {"extra_body": {"seed": -1}}, anthropic.UnprocessableEntityError, None),
        (SPENT, {}, RateLimit, "insufficient_quota"),
        (ROLLING, {}, RateLimit, "rate_limit_exceeded"),
    ],
    ids="key model length type context image document neuron balance window".split(),
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refusal_is_the_clients_own_class(
    theirs: Anthropic,
    key: str,
    asked: dict[str, Any],
    kind: type[anthropic.APIStatusError],
    code: str | None,
    stream: bool,
) -> None:
    client = theirs.with_options(api_key=key)
    with pytest.raises(kind) as caught:
        client.messages.create(**{**ASKED, "messages": HELLO, **asked}, stream=stream)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"].get("code") == (code or "invalid_request_body")
    assert caught.value.request_id == body["request_id"]
    waits = caught.value.response.headers.get("retry-after")
    assert (waits is not None) == (key == ROLLING)
    assert waits is None or 1 <= int(waits) <= 3600


@pytest.fixture
def busy(theirs: Anthropic, neuron: Daemon) -> Iterator[None]:
    """As many answers under way as one caller may have."""
    endless = {**ASKED, "max_tokens": 900, "extra_body": {"ignore_eos": True}}
    with ExitStack() as held:
        for _ in range(2):
            stream = theirs.messages.create(**endless, messages=HELLO, stream=True)
            next(iter(held.enter_context(stream)))
        yield
    neuron.wait_until_idle()  # who leaves frees the seat


@pytest.mark.usefixtures("busy")
def test_a_neuron_that_has_enough_of_one_caller(theirs: Anthropic) -> None:
    with pytest.raises(RateLimit) as caught:
        theirs.messages.create(**ASKED, messages=HELLO)
    body: Any = caught.value.body
    assert body["error"]["code"] == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) > 0
