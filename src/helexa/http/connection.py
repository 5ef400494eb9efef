"""One client's connection: its requests one after another, each answered or refused."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
import anyio.lowlevel

from helexa.errors import HelexaError
from helexa.http.budget import BodyLimits
from helexa.http.config import ServerConfig
from helexa.http.exchange import Handler, answer
from helexa.http.framing import FramingError
from helexa.http.heads import find_head_end, parse_request
from helexa.http.outbox import DateHeader, Http1Sink
from helexa.http.plain_heads import RequestHead
from helexa.http.request import Ending, Observe, Request, new_request_id
from helexa.http.response import Render, render_error
from helexa.http.wire import BROKEN, ServerWire
from helexa.refusals import HeadersTooLarge, Refusal, RequestTimeout

_PIECE_BYTES = 64 * 1024
_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Service:
    """What every connection of a server shares."""

    handler: Handler
    config: ServerConfig
    render: Render = render_error
    observe: Observe | None = None
    clock: Callable[[], float] = time.monotonic
    date: DateHeader = field(default_factory=DateHeader)
    refused: Callable[[HelexaError], None] = lambda error: None


class Connection:
    """Serves one wire until it ends, is to be closed, or breaks.

    ``due`` is the time at which what it now waits for is late; who watches the clock calls
    `overdue` then.
    """

    def __init__(self, wire: ServerWire, service: Service, on_idle: Callable[[], None]) -> None:
        self.due = math.inf
        self.wire = wire
        self.busy = False
        self._service = service
        self._on_idle = on_idle
        self._config = config = service.config
        self._limits = BodyLimits(config.max_body_bytes, config.body_budget)
        self._client = wire.peer
        self._closing = self._closing_now = self._reset = False
        self._expired = False
        self._torn = self._leaves_whole = False
        self._outcome = ""
        self._farewell: HelexaError | None = None
        self._current: _Exchange | None = None
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Serve all requests of this connection, then close it."""
        await self._run(self._converse)

    async def refuse(self, error: HelexaError) -> None:
        """Answer this error, whatever is asked, and close."""

        async def answer_error() -> None:
            await self._refuse(error)
            await self._linger()

        await self._run(answer_error)

    def close_when_idle(self, *, at_once: bool) -> None:
        """The server goes away: no request after the one that runs, or the next one."""
        self._closing = True
        if at_once:
            self._closing_now = True
            self.wire.wake()

    def abandon(self, error: HelexaError) -> None:
        """End the running request with this error; a connection without one is closed."""
        if self.busy:
            self._farewell = error
            self._leaves_whole = self._torn  # what is being written is written to its end
            if not self._torn:
                self._leave("shutdown")
        else:
            self._scope.cancel()

    def overdue(self) -> None:
        """What this connection waits for is late."""
        self.due = math.inf
        if self._torn:
            self._leave("stalled")
        else:
            self._expired = True
            self.wire.wake()

    async def write(self, data: bytes) -> None:
        """Send; a client that is gone, or accepts nothing for too long, cancels the request."""
        if self._scope.cancel_called:  # this task was about to run when the request was ended
            await anyio.lowlevel.checkpoint()
        self._torn = True
        try:
            for start in range(0, len(data), _PIECE_BYTES):
                piece = data if len(data) <= _PIECE_BYTES else data[start : start + _PIECE_BYTES]
                self.due = self._service.clock() + self._config.write_stall_s
                await self.wire.send(piece)
        except BROKEN:
            self._leave("gone")
        else:
            self._torn = False
        finally:
            self.due = math.inf
        if self._leaves_whole and not self._torn:
            self._leaves_whole = False
            self._leave("shutdown")
            await anyio.lowlevel.checkpoint()  # cancelled here
        if self._torn:
            await anyio.lowlevel.checkpoint()  # and here

    def now(self) -> float:
        """The time that ``due`` is measured in."""
        return self._service.clock()

    async def more(self, due: float) -> bool:
        """Wait for news from the client; False if ``due`` came first."""
        self._expired = False
        self.due = due
        await self.wire.wait()
        self.due = math.inf
        return not self._expired

    async def _run(self, talk: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._listening(talk)
            if self._farewell is not None and self._current is not None:
                await self._listening(self._say_farewell)
        except Exception:  # whatever it was, the request is over; the server logs it
            self._conclude("cut")
            raise
        finally:
            self._conclude("shutdown")
            self._scope = anyio.CancelScope()  # the old one knows this task, which knows us
            if self._reset:
                self.wire.reset_on_close()
            await self.wire.close()

    async def _listening(self, talk: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope() as self._scope:
            async with self.wire.listening(self._client_left):
                await talk()

    async def _converse(self) -> None:
        while True:
            try:
                head = await self._next_head()
            except Refusal as error:
                await self._refuse(error)
                break
            if head is None or not await self._exchange(head):
                break
        await self._linger()

    async def _next_head(self) -> RequestHead | None:
        """The next request's head; None if the client, or time, or the server ended it."""
        config, buffer = self._config, self.wire.buffer
        due = self._service.clock() + config.idle_timeout_s
        scanned = 0
        while True:
            if not scanned and buffer.startswith(b"\r\n") and (empty := _EMPTY_LINES.match(buffer)):
                del buffer[: empty.end()]
            if buffer and buffer != b"\r":
                if not scanned:
                    due = self._service.clock() + config.header_timeout_s
                end = find_head_end(buffer, scanned)
                if (end or len(buffer)) > config.max_head_bytes:
                    raise HeadersTooLarge(f"the head exceeds {config.max_head_bytes} bytes")
                if end:
                    return self._take_head(end)
                scanned = len(buffer)
            if self.wire.ended or (self._closing_now and not buffer):
                return None
            if not await self.more(due):
                if not buffer:
                    return None
                raise RequestTimeout(f"the head took longer than {config.header_timeout_s:g} s")

    def _take_head(self, end: int) -> RequestHead:
        buffer = self.wire.buffer
        head = bytes(buffer[:end])
        del buffer[:end]
        config = self._config
        return parse_request(
            head, max_fields=config.max_fields, max_target_bytes=config.max_target_bytes
        )

    async def _exchange(self, head: RequestHead) -> bool:
        """Answer one request; whether another may follow."""
        if self.wire.ended:
            return False
        service = self._service
        body = _IncomingBody(self, head, self._config.body_timeout_s)
        request = Request(
            *(head.method, head.path, head.query, head.headers, body),
            client=self._client,
            limits=self._limits,
        )
        sink = Http1Sink(
            *(self.write, service.date, request.id),
            head_only=head.method == "HEAD",
            http11=head.http11,
            may_keep=lambda: head.keep_alive and not self._closing and body.settle(),
        )
        self._current = _Exchange(request, sink, service.clock())
        self._outcome, self.busy = "", True
        intact = await answer(service.handler, request, sink, service.render)
        self._conclude("done" if intact else "cut")
        return sink.keep and self._outcome == "done"

    def _conclude(self, outcome: str) -> None:
        """The running request, if there is one, has ended; an outcome already known stands."""
        if self._current is None:
            return
        request, sink, began = self._current
        self._current, self.busy = None, False
        self._outcome = self._outcome or outcome
        self._reset = self._outcome == "stalled" or (sink.until_close and not sink.ended)
        observe = self._service.observe
        if observe is not None:
            duration_s = self._service.clock() - began
            observe(request, Ending(sink.status, self._outcome, duration_s, sink.sent_bytes))
        self._on_idle()

    async def _say_farewell(self) -> None:
        """Tell the client why its request was ended, if that is still possible."""
        assert self._current is not None and self._farewell is not None
        request, sink, _ = self._current
        error = self._farewell
        with anyio.move_on_after(self._config.linger_s):
            if not sink.started:
                await (request.render or self._service.render)(error).send(sink)
            elif not sink.ended and sink.last_words is not None and not self._torn:
                await sink.write(sink.last_words(error))
                if sink.words_end:
                    await sink.end()
        self._conclude("shutdown")
        if sink.ended:
            await self._linger()

    async def _refuse(self, error: HelexaError) -> None:
        """Answer what never became a request; the connection cannot go on after that."""
        self._service.refused(error)
        sink = Http1Sink(
            *(self.write, self._service.date, new_request_id()),
            head_only=False,
            http11=True,
            may_keep=lambda: False,
        )
        await self._service.render(error).send(sink)
        self._outcome = "shutdown"

    async def _linger(self) -> None:
        """Close so that the last answer arrives: what the client still sends is read and dropped.

        Closing with unread bytes would reset the connection, and a reset can overtake the answer.
        """
        if self.wire.ended or self._outcome not in ("done", "shutdown"):
            return
        self.wire.discard()
        with suppress(*BROKEN):
            await self.wire.send_eof()
        due = self._service.clock() + self._config.linger_s
        while not self.wire.ended and await self.more(due):
            pass

    def _client_left(self) -> None:
        if self._current is not None and not self._current.sink.ended:  # it has not got it all
            self._leave("gone")

    def _leave(self, outcome: str) -> None:
        self._outcome = self._outcome or outcome
        self._scope.cancel()


class _Exchange(NamedTuple):
    """The request that is being answered."""

    request: Request
    sink: Http1Sink
    began: float


class _IncomingBody:
    """The body of the request that is being answered."""

    def __init__(self, connection: Connection, head: RequestHead, timeout_s: float) -> None:
        self.content_length = None if head.chunked else head.content_length or 0
        self._connection = connection
        self._framing = head.body()
        self._timeout_s = timeout_s
        self._awaits_continue = head.expects_continue

    async def read(self) -> bytes:
        """The next part; empty at the end. Raises Refusal, RequestTimeout."""
        connection = self._connection
        while True:
            data = self._feed()
            if data or self._framing.done:
                return data
            if connection.wire.ended:  # what is here is all there will be, half a chunk's size say
                await anyio.lowlevel.checkpoint()  # cancelled here: the client is gone
                raise Refusal("the client left before its body was complete")
            if self._awaits_continue:
                self._awaits_continue = False
                await connection.write(_CONTINUE)
            if not await connection.more(connection.now() + self._timeout_s):
                raise RequestTimeout(f"no byte of the body came for {self._timeout_s:g} s")

    def settle(self) -> bool:
        """Whether the body is over, once what has already come is dropped."""
        try:
            while not self._framing.done and self._feed():
                pass
        except Refusal:
            return False
        return self._framing.done

    def _feed(self) -> bytes:
        try:
            return self._framing.feed(self._connection.wire.buffer)
        except FramingError as error:
            raise Refusal(str(error)) from error
