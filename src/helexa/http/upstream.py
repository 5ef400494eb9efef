"""One connection to a server behind this one, and the answers that come over it."""

from __future__ import annotations

import select
import ssl
from contextlib import suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute

from helexa.http.config import ClientConfig
from helexa.http.faults import UpstreamError, UpstreamMalformed, UpstreamTimeout
from helexa.http.framing import Body, EndlessBody, FramingError
from helexa.http.heads import ResponseHead, find_head_end, parse_response
from helexa.http.inbox import GONE
from helexa.refusals import Refusal

_PIECE_BYTES = 64 * 1024
_BROKEN = (*GONE, anyio.BusyResourceError, ssl.SSLError, OSError)


class ClosedBeforeAnswer(Exception):
    """The connection ended before a single byte of an answer came."""


class Upstream:
    """A connection that takes one request at a time."""

    def __init__(self, stream: ByteStream, config: ClientConfig) -> None:
        self.idle_since = 0.0
        self._stream = stream
        self._config = config
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(stream.extra(SocketAttribute.raw_socket).fileno(), select.POLLIN)

    @property
    def stale(self) -> bool:
        """Whether an idle connection has something to read: its end, or what nobody asked for."""
        return bool(self._buffer or self._poll.poll(0))

    async def ask(self, wire: bytes, timeout_s: float) -> ResponseHead:
        """Send a request and wait for the head of its answer.

        Raises ClosedBeforeAnswer, UpstreamTimeout, UpstreamMalformed, UpstreamError.
        """
        if len(wire) > _PIECE_BYTES:
            with suppress(*_BROKEN):  # it may have answered before it stopped reading
                await self._send_pieces(wire)
        with anyio.move_on_after(timeout_s):
            if len(wire) <= _PIECE_BYTES:
                with suppress(*_BROKEN):
                    await self._stream.send(wire)
            while True:
                head = await self._read_head()
                if head.status >= 200:
                    return head
                if head.status == 101:
                    raise UpstreamMalformed("it switches to a protocol nobody asked for")
        raise UpstreamTimeout(f"no head of an answer within {timeout_s:g} s")

    async def receive(self, body: Body) -> bytes:
        """More of a body; empty once it is complete.

        Raises UpstreamTimeout, UpstreamMalformed, and UpstreamError for a body that broke off.
        """
        idle_s = self._config.idle_timeout_s
        try:
            while not body.done:
                with anyio.move_on_after(idle_s) as waiting:
                    self._buffer += await self._stream.receive()
                if waiting.cancelled_caught:
                    raise UpstreamTimeout(f"no byte of the body for {idle_s:g} s")
                if data := body.feed(self._buffer):
                    return data
        except FramingError as error:
            raise UpstreamMalformed(str(error)) from error
        except anyio.EndOfStream as error:
            if not body.end():
                raise UpstreamError("the connection ended inside the body") from error
        except _BROKEN as error:
            raise UpstreamError(f"the connection broke inside the body ({error!r})") from error
        return b""

    def take(self, body: Body) -> bytes:
        """What of the body has come already."""
        try:
            return body.feed(self._buffer)
        except FramingError as error:
            raise UpstreamMalformed(str(error)) from error

    async def close(self) -> None:
        """Close at once, whatever is under way; safe in a cancelled scope."""
        await anyio.aclose_forcefully(self._stream)

    async def _send_pieces(self, wire: bytes) -> None:
        timeout_s = self._config.write_timeout_s
        try:
            for start in range(0, len(wire), _PIECE_BYTES):
                with anyio.fail_after(timeout_s):
                    await self._stream.send(wire[start : start + _PIECE_BYTES])
        except TimeoutError as error:
            raise UpstreamTimeout(f"nothing of the request taken for {timeout_s:g} s") from error

    async def _read_head(self) -> ResponseHead:
        buffer, scanned = self._buffer, 0
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
                buffer += await self._stream.receive()
        except Refusal as error:
            raise UpstreamMalformed(str(error)) from error
        except _BROKEN as error:
            if buffer:
                raise UpstreamError("the connection ended inside the head") from error
            raise ClosedBeforeAnswer from error


class UpstreamResponse:
    """An answer whose body is still coming: iterate it for its parts, each as it was read.

    Content only: the framing of the transfer is gone, nothing else is changed.
    """

    def __init__(self, connection: Upstream, head: ResponseHead, method: str) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection = connection
        self._body = head.body(method)
        self._keep_alive = head.keep_alive and not isinstance(self._body, EndlessBody)
        self._first = connection.take(self._body)

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another request: the body is complete."""
        return self._body.done and self._keep_alive

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
        if part := self.take_first() or await self._connection.receive(self._body):
            return part
        raise StopAsyncIteration
