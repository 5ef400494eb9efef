"""One connection to a server behind this one, and the answers that come over it."""

from __future__ import annotations

import logging

from helexa.http.config import ClientConfig
from helexa.http.faults import UpstreamError, UpstreamMalformed, UpstreamTimeout
from helexa.http.framing import Body, EndlessBody, FramingError
from helexa.http.heads import find_head_end, parse_response
from helexa.http.plain_heads import ResponseHead
from helexa.http.wire import BROKEN, ClientWire
from helexa.refusals import Refusal

_PIECE_BYTES = 64 * 1024
_MOST_INTERIM = 16
"""Heads of 1xx before the answer: more are a flood, and each takes time that others wait for."""

log = logging.getLogger(__name__)


class ClosedBeforeAnswer(Exception):
    """The connection ended before a single byte of an answer came."""


class Upstream:
    """A connection that takes one request at a time."""

    def __init__(self, wire: ClientWire, config: ClientConfig) -> None:
        self.idle_since = 0.0
        self.wire = wire
        self._config = config

    async def ask(self, request: bytes, timeout_s: float) -> ResponseHead:
        """Send a request and wait for the head of its answer.

        Raises ClosedBeforeAnswer, UpstreamTimeout, UpstreamMalformed, UpstreamError.
        """
        try:
            await self._send(request)
        except BROKEN as error:  # it may have answered before it stopped reading
            log.debug("a request was not sent whole: %r", error)
        due = self.wire.now() + timeout_s
        for _ in range(_MOST_INTERIM + 1):
            head = await self._read_head(due)
            if head is None:
                raise UpstreamTimeout(f"no head of an answer within {timeout_s:g} s")
            if head.status >= 200:
                return head
            if head.status == 101:
                raise UpstreamMalformed("it switches to a protocol nobody asked for")
        raise UpstreamMalformed(f"more than {_MOST_INTERIM} heads of 1xx")

    async def receive(self, body: Body, idle_timeout_s: float) -> bytes:
        """More of a body; empty once it is complete.

        Raises UpstreamTimeout, UpstreamMalformed, and UpstreamError for a body that broke off.
        """
        wire = self.wire
        while True:
            if wire.buffer and (data := self.take(body)):
                return data
            if body.done:
                return b""
            if wire.ended:
                self._end(body)
            elif not await wire.more(wire.now() + idle_timeout_s):
                raise UpstreamTimeout(f"no byte of the body for {idle_timeout_s:g} s")

    def _end(self, body: Body) -> None:
        if self.wire.broke:
            raise UpstreamError(f"the connection broke inside the body ({self.wire.broke})")
        if not body.end():
            raise UpstreamError("the connection ended inside the body")

    def take(self, body: Body) -> bytes:
        """What of the body has come already."""
        try:
            return body.feed(self.wire.buffer)
        except FramingError as error:
            raise UpstreamMalformed(str(error)) from error

    async def close(self) -> None:
        """Close at once, whatever is under way; safe in a cancelled scope."""
        await self.wire.close()

    async def _send(self, request: bytes) -> None:
        stall_s = self._config.write_timeout_s
        try:
            if len(request) <= _PIECE_BYTES:
                await self.wire.send(request, stall_s)
                return
            for start in range(0, len(request), _PIECE_BYTES):
                await self.wire.send(request[start : start + _PIECE_BYTES], stall_s)
        except TimeoutError as error:
            raise UpstreamTimeout(f"nothing of the request taken for {stall_s:g} s") from error

    async def _read_head(self, due: float) -> ResponseHead | None:
        """The next head; None if ``due`` came first."""
        wire, buffer, scanned = self.wire, self.wire.buffer, 0
        limit = self._config.max_head_bytes
        try:
            while True:
                if buffer:
                    end = find_head_end(buffer, scanned)
                    if (end or len(buffer)) > limit:
                        raise UpstreamMalformed(f"the head exceeds {limit} bytes")
                    if end:
                        head = bytes(buffer[:end])
                        del buffer[:end]
                        return parse_response(head, max_fields=self._config.max_fields)
                    scanned = len(buffer)
                if wire.ended:
                    break
                if not await wire.more(due):
                    return None
        except Refusal as error:
            raise UpstreamMalformed(str(error)) from error
        if buffer:
            raise UpstreamError("the connection ended inside the head")
        raise ClosedBeforeAnswer


class UpstreamResponse:
    """An answer whose body is still coming: iterate it for its parts, each as it was read.

    Content only: the framing of the transfer is gone, nothing else is changed.
    """

    def __init__(
        self, connection: Upstream, head: ResponseHead, method: str, idle_timeout_s: float
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection = connection
        self._idle_timeout_s = idle_timeout_s
        self._body = head.body(method)
        self._keep_alive = head.keep_alive and not isinstance(self._body, EndlessBody)
        self._first = connection.take(self._body)

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another request: the body is complete."""
        return self._body.done and self._keep_alive

    @property
    def complete(self) -> bool:
        """Whether all of the body has come, and iterating gives no more of it."""
        return self._body.done and not self._first

    def take_first(self) -> bytes:
        """What came together with the head; iterating does not give it again."""
        first, self._first = self._first, b""
        return first

    async def read(self, max_bytes: int) -> bytes:
        """The rest of the body. Raises UpstreamMalformed if it is larger than that."""
        parts, size = [], 0
        async for part in self:
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise UpstreamMalformed(f"the body exceeds {max_bytes} bytes")
        return b"".join(parts)

    def __aiter__(self) -> UpstreamResponse:
        return self

    async def __anext__(self) -> bytes:
        if part := self.take_first():
            return part
        if part := await self._connection.receive(self._body, self._idle_timeout_s):
            return part
        raise StopAsyncIteration
