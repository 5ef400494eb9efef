"""What has arrived on a connection: read ahead at all times, so that a client's leaving is seen.

One task reads, whatever the connection is doing. It stops while much is waiting, so that a client
cannot fill the memory; what it has read is never lost, it is the next request's beginning.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import anyio
from anyio.abc import ByteStream

HIGH_WATER_BYTES = 128 * 1024
READ_BYTES = 16 * 1024
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Inbox:
    """The bytes that nobody has used yet, and whether more can come."""

    def __init__(self, stream: ByteStream) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.discarding = False
        self._stream = stream
        read_when_asked(getattr(stream, "transport_stream", stream))
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None

    async def listen(self, on_end: Callable[[], None]) -> None:
        """Read until the peer leaves; runs as a task of the connection.

        ``on_end`` is called once, when the peer has closed its side or the connection broke.
        """
        receive, buffer = self._stream.receive, self.buffer
        try:
            while True:
                data = await receive()
                if self.discarding:
                    continue
                buffer += data
                self.wake()
                if len(buffer) >= HIGH_WATER_BYTES:
                    self._room = anyio.Event()
                    await self._room.wait()
        except (*GONE, anyio.BusyResourceError, ssl.SSLError, OSError):
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
        self.discarding = True
        self.buffer.clear()
        if self._room is not None:
            self._room.set()
            self._room = None


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
