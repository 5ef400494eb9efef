"""The client of a relay: pooled keep-alive connections to the servers behind this one.

It connects only where it is told, follows no redirect, reads no proxy variable. Everything that is
not a relay is better served by httpx.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream

from helexa.errors import InvalidRequest
from helexa.http.asyncio_wire import new_scratch, over_asyncio
from helexa.http.config import ClientConfig
from helexa.http.faults import UpstreamError, UpstreamUnreachable
from helexa.http.headers import HeaderInput, fields_of
from helexa.http.heads import write_request
from helexa.http.plain_heads import ResponseHead
from helexa.http.stream_wire import PulledWire
from helexa.http.upstream import ClosedBeforeAnswer, Upstream, UpstreamResponse
from helexa.http.wire import ClientWire

_OURS = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding"})
_WITH_BODY = frozenset({"PATCH", "POST", "PUT"})


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


class Patience(NamedTuple):
    """How long to wait for an answer, in seconds: for its head, and between two of its bytes."""

    first_byte_s: float
    idle_s: float


class Client:
    """Connections to upstream servers; ``async with`` it for as long as it is used.

    ``tls`` checks the certificates of https servers; by default the system's authorities do.
    """

    def __init__(self, config: ClientConfig | None = None, tls: ssl.SSLContext | None = None):
        self.config = config or ClientConfig()
        self._tls = tls
        self._idle: dict[Origin, deque[Upstream]] = {}
        self._scratch = new_scratch()
        self._stack = AsyncExitStack()

    @property
    def idle(self) -> int:
        """How many connections wait to be used again."""
        return sum(map(len, self._idle.values()))

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(self._close_old_ones)
        self._stack.callback(tasks.cancel_scope.cancel)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._stack.aclose()
        finally:
            with anyio.CancelScope(shield=True):  # closing waits for nobody
                for connections in self._idle.values():
                    while connections:
                        await connections.pop().close()

    def request(
        self,
        method: str,
        url: str,
        headers: HeaderInput = (),
        body: bytes = b"",
        *,
        first_byte_timeout_s: float | None = None,
        idle_timeout_s: float | None = None,
    ) -> Asking:
        """Send a request: ``async with`` it for the answer, as soon as its head is there.

        Leaving the block before the body's end closes the connection, which tells the server to
        stop. A pooled connection that was closed before any byte of an answer is replaced once.
        Entering raises UpstreamUnreachable (nothing was sent), UpstreamTimeout, UpstreamMalformed,
        UpstreamError.
        """
        origin, target, host = _locate(url)
        fields = [field for field in fields_of(headers) if field[0] not in _OURS]
        if b"host" not in [name for name, _ in fields]:
            fields.insert(0, (b"host", host))
        if body or method in _WITH_BODY:
            fields.append((b"content-length", b"%d" % len(body)))
        wire = write_request(method, target, fields) + body
        patience = Patience(
            first_byte_timeout_s or self.config.first_byte_timeout_s,
            idle_timeout_s or self.config.idle_timeout_s,
        )
        return Asking(self, origin, method, wire, patience)

    async def ask(
        self, origin: Origin, wire: bytes, timeout_s: float
    ) -> tuple[Upstream, ResponseHead]:
        """Send these bytes over a pooled or a new connection, and read a head."""
        pooled = await self._pooled(origin)
        if pooled is not None:
            try:
                return pooled, await _ask_or_close(pooled, wire, timeout_s)
            except ClosedBeforeAnswer:
                pass  # it was closed while it was idle: that request was not taken
        fresh = await self._connect(origin)
        try:
            return fresh, await _ask_or_close(fresh, wire, timeout_s)
        except ClosedBeforeAnswer as error:
            raise UpstreamError("the connection ended before an answer") from error

    async def _pooled(self, origin: Origin) -> Upstream | None:
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            if not connection.wire.stale:
                return connection
            await connection.close()
        return None

    def keep(self, origin: Origin, connection: Upstream) -> bool:
        """Take a connection back for the next request; False if there are enough."""
        connections = self._idle.setdefault(origin, deque())
        if len(connections) >= self.config.max_idle_per_origin:
            return False
        connection.idle_since = time.monotonic()
        connections.append(connection)
        return True

    async def _connect(self, origin: Origin) -> Upstream:
        try:
            with anyio.fail_after(self.config.connect_timeout_s):
                stream = await anyio.connect_tcp(origin.host, origin.port)
                wire = await self._wire(origin, stream)
        except TimeoutError as error:
            late = f"no connection within {self.config.connect_timeout_s:g} s"
            raise UpstreamUnreachable(late) from error
        except (OSError, UnicodeError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise UpstreamUnreachable(f"no connection: {error}") from error
        return Upstream(wire, self.config)

    async def _wire(self, origin: Origin, stream: SocketStream) -> ClientWire:
        if origin.scheme == "https":
            return PulledWire(await self._secured(stream, origin.host))
        return over_asyncio(stream, self._scratch) or PulledWire(stream)

    async def _secured(self, stream: ByteStream, host: str) -> ByteStream:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            return await TLSStream.wrap(
                stream, hostname=host, ssl_context=self._tls, standard_compatible=False
            )
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _close_old_ones(self) -> None:
        keep_s = self.config.keep_idle_s
        while True:
            await anyio.sleep(keep_s / 4)
            oldest = time.monotonic() - keep_s * 3 / 4
            for origin, connections in list(self._idle.items()):
                while connections and connections[0].idle_since < oldest:
                    await connections.popleft().close()
                if not connections:
                    self._idle.pop(origin, None)


class Asking:
    """One request of a `Client`, as a context."""

    def __init__(
        self, client: Client, origin: Origin, method: str, wire: bytes, patience: Patience
    ) -> None:
        self._client = client
        self._origin = origin
        self._method = method
        self._wire = wire
        self._patience = patience

    async def __aenter__(self) -> UpstreamResponse:
        first_byte_s, idle_s = self._patience
        connection, head = await self._client.ask(self._origin, self._wire, first_byte_s)
        try:
            self._response = UpstreamResponse(connection, head, self._method, idle_s)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return self._response

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.give_back():
            await self._connection.close()

    def give_back(self) -> bool:
        """Leave at once, if the answer is complete: its connection goes to the next request."""
        return self._response.reusable and self._client.keep(self._origin, self._connection)


async def _ask_or_close(connection: Upstream, wire: bytes, timeout_s: float) -> ResponseHead:
    try:
        return await connection.ask(wire, timeout_s)
    except BaseException:
        await connection.close()
        raise


@lru_cache
def _locate(url: str) -> tuple[Origin, str, bytes]:
    """Origin, request target and ``host`` header of an absolute URL. Raises InvalidRequest."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is not an absolute http or https URL")
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    host = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
    return Origin(parts.scheme, parts.hostname, port), target, host
