"""Connections over any stream of anyio: on trio, and under TLS."""

from __future__ import annotations

import math
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from helexa.http.ending import ends_quietly
from helexa.http.wire import BROKEN, HIGH_WATER_BYTES

READ_BYTES = 16 * 1024
RESET = pack("ii", 1, 0)


class _OverStream:
    """What both ends do with their stream."""

    def __init__(self, stream: ByteStream) -> None:
        self.buffer = bytearray()
        self.ended = False
        self._stream = stream

    async def send(self, data: bytes, timeout_s: float = math.inf) -> None:
        """Send; returns when the system has taken it all. Raises one of `BROKEN`, TimeoutError."""
        if timeout_s == math.inf:
            await self._stream.send(data)
        else:
            with anyio.fail_after(timeout_s):
                await self._stream.send(data)

    async def close(self) -> None:
        """Close at once, whatever is under way; safe in a cancelled scope."""
        await anyio.aclose_forcefully(self._stream)


class StreamWire(_OverStream):
    """The server's side. One task reads, whatever the connection is doing."""

    def __init__(self, stream: ByteStream) -> None:
        super().__init__(stream)
        read_when_asked(getattr(stream, "transport_stream", stream))
        self._discarding = False
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None

    @property
    def peer(self) -> str:
        """The address of the client."""
        address = self._stream.extra(SocketAttribute.remote_address, "")
        return address if isinstance(address, str) else str(address[0])

    @asynccontextmanager
    async def listening(self, on_end: Callable[[], None]) -> AsyncIterator[None]:
        """Read ahead while the block runs; ``on_end`` is called when nothing more can come."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ends_quietly, partial(self._listen, on_end))
            yield
            tasks.cancel_scope.cancel()

    async def _listen(self, on_end: Callable[[], None]) -> None:
        receive, buffer = self._stream.receive, self.buffer
        try:
            while True:
                data = await receive()
                if self._discarding:
                    continue
                buffer += data
                self.wake()
                if len(buffer) >= HIGH_WATER_BYTES:
                    self._room = anyio.Event()
                    await self._room.wait()
        except BROKEN:
            self.ended = True
            self.wake()
            on_end()

    def wake(self) -> None:
        """Make who waits look again."""
        if self._news is not None:
            self._news.set()

    async def wait(self) -> None:
        """Return when more bytes have come, when no more can come, or after `wake`."""
        if self._room is not None and len(self.buffer) < HIGH_WATER_BYTES:
            self._room.set()
            self._room = None
        if self.ended:
            return
        self._news = anyio.Event()
        try:
            await self._news.wait()
        finally:
            self._news = None

    def discard(self) -> None:
        """Drop what is here and what will come."""
        self._discarding = True
        self.buffer.clear()
        if self._room is not None:
            self._room.set()
            self._room = None

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; TLS has its own way of ending, which is not asked."""
        plain = getattr(self._stream, "transport_stream", self._stream)
        await plain.send_eof()

    def reset_on_close(self) -> None:
        """Make closing drop what is unsent, and say so: the client must not take it for an end."""
        raw = self._stream.extra(SocketAttribute.raw_socket, None)
        if raw is not None:
            with suppress(OSError):
                raw.setsockopt(SOL_SOCKET, SO_LINGER, RESET)


class PulledWire(_OverStream):
    """The client's side: read when somebody waits."""

    def __init__(self, stream: ByteStream) -> None:
        super().__init__(stream)
        self.broke = ""
        self.now = anyio.current_time
        self._poll = select.poll()
        self._poll.register(stream.extra(SocketAttribute.raw_socket).fileno(), select.POLLIN)

    @property
    def stale(self) -> bool:
        """Whether an idle connection has something to read: its end, or what nobody asked for."""
        return bool(self.buffer or self._poll.poll(0))

    async def more(self, due: float) -> bool:
        """Return when more bytes have come or no more can come; False if ``due`` came first."""
        with anyio.CancelScope(deadline=due) as waiting:
            try:
                self.buffer += await self._stream.receive()
            except anyio.EndOfStream:
                self.ended = True
            except BROKEN as error:
                self.ended, self.broke = True, repr(error)
        return not waiting.cancelled_caught


def read_when_asked(stream: ByteStream) -> None:
    """Let asyncio's transport read only while somebody receives, and little at once.

    Of a connection that was accepted, anyio lets it read until the first wait, which never comes
    for a client that sends without a pause: what it sends would fill the memory. And it takes a new
    buffer for every read, of 256 KiB unless told otherwise, of which it keeps the few bytes that
    came: between hundreds of connections the heap grows for ever, full of holes. There is no public
    way to say so; on other event loops there are no such attributes, and no need.
    """
    transport: Any = getattr(stream, "_transport", None)
    if hasattr(transport, "max_size"):
        transport.max_size = READ_BYTES
        transport.pause_reading()
