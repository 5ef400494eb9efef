"""What has arrived on a connection: read ahead at all times, so that a client's leaving is seen.

One task reads, whatever the connection is doing. It stops while much is waiting, so that a client
cannot fill the memory; what it has read is never lost, it is the next request's beginning.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import anyio
from anyio.abc import ByteStream

HIGH_WATER_BYTES = 128 * 1024
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Inbox:
    """The bytes that nobody has used yet, and whether more can come.

    ``ended`` is called once, when the peer has closed its side or the connection broke.
    """

    def __init__(self, stream: ByteStream, on_end: Callable[[], None]) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.discarding = False
        self._stream = stream
        self._on_end = on_end
        self._news: anyio.Event | None = None
        self._room: anyio.Event | None = None

    async def listen(self) -> None:
        """Read until the peer leaves; runs as a task of the connection."""
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
            self._on_end()

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
