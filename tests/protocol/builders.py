"""Events to project, and streams read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from helexa.engine.outputs import CacheReport
from helexa.protocol.openai.chat_answer import ChatAnswer
from helexa.protocol.openai.completion_answer import CompletionAnswer
from helexa.protocol.openai.projection import Head, Projection, stream
from helexa.protocol.openai.response_answer import ResponseAnswer
from helexa.text.events import Event, Finish, FinishReason, Reasoning, Text, TokenLogprob, ToolCall
from helexa.text.events import Usage as EventUsage

quick = settings(max_examples=60, deadline=None)

X = "0123456789abcdef" * 2
CHAT = Head(f"chatcmpl-{X}", "m", 1_700_000_000)
PLAIN = Head(f"cmpl-{X}", "m", 1_700_000_000)
RESPONSE = Head(f"resp_{X}", "m", 1_700_000_000)
MESSAGE_ID = "msg_" + "f" * 32
MARKERS = ("<think>", "</think>")


def usage(
    prompt: int = 10,
    completion: int = 5,
    *,
    reasoning: int = 0,
    cached: int = 0,
    timing: tuple[float, float, int] = (0.0, 0.0, 0),
    cache: CacheReport | None = None,
) -> EventUsage:
    return EventUsage(prompt, completion, reasoning, cached, *timing, cache)


def finish(reason: FinishReason = "stop", **counts: Any) -> Finish:
    return Finish(reason, usage(**counts))


def call(index: int = 0, name: str = "weather", arguments: str = '{"city":"Brno"}') -> ToolCall:
    return ToolCall(index, f"call_{index:032x}", name, arguments)


def chat(**options: Any) -> ChatAnswer:
    return ChatAnswer(CHAT, **options)


def plain(**options: Any) -> CompletionAnswer:
    return CompletionAnswer(PLAIN, **options)


def response(**options: Any) -> ResponseAnswer:
    return ResponseAnswer(RESPONSE, message_id=MESSAGE_ID, **options)


def wire(projection: Projection, events: Iterable[Event]) -> bytes:
    """The bytes of a streamed answer."""
    return b"".join(frame.encode() for frame in stream(projection, events))


def datas(body: bytes) -> list[Any]:
    """The data of each frame: an object, or the end mark's text."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        (line,) = [line for line in block.split("\n") if line.startswith("data: ")]
        data = line.removeprefix("data: ")
        found.append(data if data == "[DONE]" else json.loads(data))
    return found


def deltas(body: bytes) -> list[tuple[str, Any]]:
    """A chat stream as (what, value) pairs, frame by frame."""
    found: list[tuple[str, Any]] = []
    for data in datas(body):
        if data == "[DONE]":
            found.append(("done", None))
        elif "error" in data:
            found.append(("error", data["error"]["code"]))
        elif not data["choices"]:
            found.append(("usage", data["usage"]))
        elif data["choices"][0]["finish_reason"]:
            assert data["choices"][0]["delta"] == {}
            found.append(("finish", data["choices"][0]["finish_reason"]))
        else:
            (pair,) = data["choices"][0]["delta"].items()
            found.append(pair)
    return found


def names(body: bytes) -> list[str]:
    """The event names of a response stream, without their prefix."""
    lines = body.decode().splitlines()
    return [line.removeprefix("event: response.") for line in lines if line.startswith("event:")]


def number(events: Sequence[Event]) -> list[Event]:
    """The events with their calls counted from 0, as a parser numbers them."""
    count = 0
    found: list[Event] = []
    for event in events:
        if isinstance(event, ToolCall):
            event = call(count, event.name, event.arguments)
            count += 1
        found.append(event)
    return found


logprob = TokenLogprob(1, "hi", b"hi", -0.5, (TokenLogprob(1, "hi", b"hi", -0.5),))
texts = st.text(max_size=8)
events = st.one_of(
    st.builds(Reasoning, texts),
    st.builds(Text, texts, st.sampled_from([(), (logprob,), (logprob, logprob)])),
    st.builds(lambda a: call(0, "f", json.dumps({"a": a})), texts),
)
finishes = st.builds(
    lambda reason, p, c, r, h: finish(reason, prompt=p, completion=c, reasoning=r, cached=h),
    st.sampled_from(["stop", "length"]),
    *[st.integers(0, 9999)] * 4,
)
answers = st.builds(lambda body, end: [*number(body), end], st.lists(events, max_size=12), finishes)
