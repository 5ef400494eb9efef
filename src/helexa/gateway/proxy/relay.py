"""Passing an answer on: status, headers and every byte, each part as soon as it was read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from helexa.errors import HelexaError
from helexa.gateway.api.cors import without_cors
from helexa.gateway.api.errors import in_own_words
from helexa.gateway.proxy.call import Call
from helexa.gateway.proxy.dispatch import LOGGED_CHARACTERS, Answer
from helexa.gateway.proxy.wires import RESPONSES
from helexa.http import StreamingResponse, end_to_end, envelope, event
from helexa.http.faults import UpstreamError
from helexa.http.response import Sink

EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")

log = logging.getLogger(__name__)


def relayed(call: Call, answer: Answer) -> StreamingResponse:
    """The answer of a neuron as the answer to a call, which closes it at its end."""
    call.answered(answer)
    fields = without_cors(end_to_end(answer.headers.fields))
    if answer.status >= 300:
        tell_refusal(call, answer)
    first = answer.take_prefix()
    if first:
        call.feed(first)
    parts = Observed(call, answer)
    if not call.streams or answer.headers.first(b"content-length") is not None:
        return StreamingResponse(parts, answer.status, fields, first=first)
    return ToldStream(Told(call, parts, first), answer.status, fields, first=first)


def tell_refusal(call: Call, answer: Answer) -> None:
    """Log the beginning of what a neuron answered instead of the thing that was asked for."""
    node = answer.route.node
    text = node.told(answer.prefix[: 4 * LOGGED_CHARACTERS])[:LOGGED_CHARACTERS]
    log.warning("node %s answered %d for %s: %s", node.name, answer.status, call.model, text)


class Observed:
    """The parts of an answer, each shown to the observer, none changed."""

    __slots__ = ("_call", "_parts")

    def __init__(self, call: Call, answer: Answer) -> None:
        self._call = call
        self._parts = answer.rest

    @property
    def complete(self) -> bool:
        """Whether no part will follow: then the answer's end goes out with the last one."""
        return self._parts is None or self._parts.complete

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._parts is None:
            raise StopAsyncIteration
        part = await self._parts.__anext__()
        self._call.feed(part)
        return part


class Told:
    """An event stream whose client is told if its neuron fails, before the connection is cut.

    So it is if the gateway has to end it. Only between two events: half of one, and then an error,
    would be neither. And not where the neuron has said how long the answer is.
    """

    __slots__ = ("_call", "_error", "_parts", "_whole", "sink")

    def __init__(self, call: Call, parts: Observed, first: bytes) -> None:
        self.sink: Sink | None = None
        self._call = call
        self._parts = parts
        self._whole = not first or first.endswith(EVENT_ENDS)
        self._error: UpstreamError | None = None

    @property
    def complete(self) -> bool:
        """Whether no part will follow."""
        return self._error is None and self._parts.complete

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._error is not None:
            raise self._error
        sink = self.sink
        if sink is not None and self._whole:  # who asks for more has sent what there was before
            sink.last_words = self._farewell
        try:
            part = await self._parts.__anext__()
        except UpstreamError as error:
            if not self._whole:
                raise
            self._error = error
            return error_event(self._call, error)
        self._whole = part.endswith(EVENT_ENDS)
        if sink is not None and not self._whole:
            sink.last_words = None
        return part

    def _farewell(self, error: HelexaError) -> bytes:
        return b"" if self._error is not None else error_event(self._call, in_own_words(error))


class ToldStream(StreamingResponse):
    """An event stream that is told by `Told`."""

    async def send(self, sink: Sink) -> None:
        assert isinstance(self.parts, Told)
        self.parts.sink = sink
        sink.words_end = False
        await super().send(sink)


def error_event(call: Call, error: HelexaError) -> bytes:
    """What ends a stream before its time, as an event of the client's dialect."""
    told = envelope(error)
    if call.wire is RESPONSES:
        return event({**told["error"], "type": "error"}, "error")
    return event(told)
