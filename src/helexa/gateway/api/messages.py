"""Anthropic's messages: said to a neuron in OpenAI's words, and its answer in Anthropic's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import anyio

from helexa.errors import HelexaError
from helexa.gateway.api.errors import in_own_words
from helexa.gateway.api.openai import head_timeout_s, own_fields, tell_inbound
from helexa.gateway.fleet import Node
from helexa.gateway.proxy.body import LARGE_BYTES, Ask, aside, read_json
from helexa.gateway.proxy.call import Call
from helexa.gateway.proxy.dispatch import KEEP_BYTES, Answer, Sending, dispatch
from helexa.gateway.proxy.estimate import need, require_fit
from helexa.gateway.proxy.relay import Observed, tell_refusal
from helexa.gateway.proxy.wires import MESSAGES
from helexa.gateway.router import Route, resolve
from helexa.gateway.state import State
from helexa.gateway.translate.answer import translate_answer
from helexa.gateway.translate.errors import REQUEST_ID, upstream_error
from helexa.gateway.translate.messages_stream import MessagesStream
from helexa.gateway.translate.request import Translated, translate_request
from helexa.gateway.translate.sse import PING
from helexa.http import Request, Response, StreamingResponse
from helexa.http.faults import UpstreamError, UpstreamMalformed, UpstreamTimeout
from helexa.http.headers import Field
from helexa.http.response import Sink

MOST_BYTES = 64 * 1024 * 1024
"""Of an answer that is translated as a whole."""
EVENTS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


async def create(state: State, request: Request) -> Response:
    """Answer a request of the messages API by a neuron's chat completion."""
    call = await request.hold(Call(state, MESSAGES, request))
    data, value = await read_json(request)
    translated = await aside(len(data), lambda: translate_request(value))
    call.asks(translated.model, stream=translated.stream)
    tell_inbound(
        MESSAGES, request.path, Ask(data, translated.body, translated.model, translated.stream)
    )
    route = await resolve(state, translated.model)
    call.routed(route)
    body, context = translated.body, route.entry.context
    if context is not None:
        require_fit(body, context, request.headers.get("user-agent"), anthropic=True)
    call.counted()
    encoded = await encode(translated, route, len(data))
    await call.meter.reserve(need(encoded, body, MESSAGES.limits, route.entry.output).total)
    bodies = {route.entry.listed_id: encoded}
    sent = sending(state, request, translated, bodies)
    answer = await dispatch(state, call, route, sent)
    return await answered(request, call, answer, translated)


def sending(
    state: State, request: Request, translated: Translated, encoded: dict[str, bytes]
) -> Sending:
    """What a replica is sent; ``encoded`` are the bodies by the model's name on a node."""

    async def body(route: Route) -> bytes:
        listed = route.entry.listed_id
        if listed not in encoded:
            encoded[listed] = await encode(translated, route, len(next(iter(encoded.values()))))
        return encoded[listed]

    return Sending(
        path=MESSAGES.path,
        body=body,
        fields=partial(fields_for, request),
        head_timeout_s=head_timeout_s(state.config.proxy, translated.stream),
    )


async def encode(translated: Translated, route: Route, size: int) -> bytes:
    """The body for a replica; ``size`` is about that of the body in bytes."""
    listed = route.entry.listed_id
    return await aside(size, lambda: translated.encode(listed, yielding=size > LARGE_BYTES))


def fields_for(request: Request, node: Node) -> list[Field]:
    """The header for a replica: nothing of the client's but the name of its request."""
    return [
        (b"content-type", b"application/json"),
        (b"x-request-id", request.id.encode()),
        *own_fields(request, node),
    ]


async def answered(
    request: Request, call: Call, answer: Answer, translated: Translated
) -> Response:
    """A neuron's answer in Anthropic's words. Raises UpstreamMalformed, UpstreamError."""
    call.answered(answer)
    if not 200 <= answer.status < 300:
        tell_refusal(call, answer)
        body = await read_all(call, answer, KEEP_BYTES)
        wait = answer.headers.get("retry-after")
        return upstream_error(answer.status, body, wait, request.id)
    if translated.stream:
        if call.kind == "application/json":
            call.discard()
            raise UpstreamMalformed("the answer is no event stream")
        return MessagesResponse(call, answer, MessagesStream(translated.thinking))
    try:
        body = await read_all(call, answer, MOST_BYTES)
        told = await aside(len(body), lambda: translate_answer(body, translated.thinking))
    except UpstreamError:
        call.discard()
        raise
    return Response(told, headers=[(REQUEST_ID, request.id)], media_type="application/json")


async def read_all(call: Call, answer: Answer, most: int) -> bytes:
    """The whole body. Raises UpstreamMalformed if it is larger than that."""
    parts = [answer.take_prefix()]
    size = len(parts[0])
    call.feed(parts[0])
    async for part in Observed(call, answer):
        parts.append(part)
        size += len(part)
        if size > most:
            raise UpstreamMalformed(f"the body exceeds {most} bytes")
    return b"".join(parts)


class MessagesResponse(StreamingResponse):
    """A stream of messages events, with a ping whenever none came for a while.

    What goes wrong with the neuron is told in the stream, which then ends properly.
    """

    def __init__(self, call: Call, answer: Answer, stream: MessagesStream) -> None:
        super().__init__(_Frames(call, answer, stream), 200, {**EVENTS, REQUEST_ID: call.id})
        self._stream = stream

    async def send(self, sink: Sink) -> None:
        sink.last_words = self._farewell
        await super().send(sink)

    def _farewell(self, error: HelexaError) -> bytes:
        return self._stream.broken(in_own_words(error).wire_message)


class _Frames:
    """The frames of one translated stream."""

    def __init__(self, call: Call, answer: Answer, stream: MessagesStream) -> None:
        self._call = call
        self._prefix = answer.take_prefix()
        self._parts = Observed(call, answer)
        self._stream = stream
        self._idle_s = call.state.config.proxy.idle_timeout_secs
        self._ping_s = call.state.ping_s
        self._heard_at = self._said_at = anyio.current_time()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._prefix:
            prefix, self._prefix = self._prefix, b""
            self._call.feed(prefix)
            if frames := self._stream.feed(prefix):
                return self._said(frames)
        while not self._stream.over:
            try:
                part = await self._next_part()
            except StopAsyncIteration:
                frames = self._stream.ended()
            except UpstreamError as error:
                self._call.failed(error)
                frames = self._stream.broken()
            else:
                frames = PING if part is None else self._stream.feed(part)
            if frames:
                return self._said(frames)
        raise StopAsyncIteration

    async def _next_part(self) -> bytes | None:
        """More of the neuron's stream; None when it is time for a ping."""
        stalls_at = self._heard_at + self._idle_s
        due = min(self._said_at + self._ping_s, stalls_at)
        with anyio.CancelScope(deadline=due):
            part = await self._parts.__anext__()
            self._heard_at = anyio.current_time()
            return part
        if anyio.current_time() >= stalls_at:
            raise UpstreamTimeout(f"no byte of the body for {self._idle_s:g} s")
        return None

    def _said(self, frames: bytes) -> bytes:
        if self._stream.failed and self._call.problem is None:
            self._call.failed(UpstreamError("its stream ended before its answer did"))
        self._said_at = anyio.current_time()
        return frames
