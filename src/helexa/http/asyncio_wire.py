"""Connections straight over asyncio's transports, for both ends.

What it saves over anyio's stream: the task that reads ahead (asyncio calls us with what came), two
system calls that turn reading on and off for every piece, and a turn of the event loop for every
piece that is sent. Public interfaces of asyncio only, so that any event loop of its kind will do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET, socket
from typing import Any, cast

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream

from helexa.http.stream_wire import RESET
from helexa.http.wire import HIGH_WATER_BYTES

_SCRATCH_BYTES = 64 * 1024
_SENDS_IN_A_ROW = 16


def running_loop() -> asyncio.AbstractEventLoop | None:
    """asyncio's event loop if it runs this task; None under trio, also where that is its guest."""
    try:
        return None if asyncio.current_task() is None else asyncio.get_running_loop()
    except RuntimeError:
        return None


def new_scratch() -> memoryview:
    """Where one loop's wires read to, each for as long as it takes to copy what came."""
    return memoryview(bytearray(_SCRATCH_BYTES))


def over_asyncio(stream: SocketStream, scratch: memoryview) -> AsyncioWire | None:
    """A wire in the place of anyio's stream over a connection that was just made.

    None on other event loops. There is no public way to anyio's transport; without it, its stream
    does as well.
    """
    transport: Any = getattr(stream, "_transport", None)
    if not hasattr(transport, "set_protocol"):
        return None
    wire = AsyncioWire(scratch)
    wire.connection_made(transport)
    transport.set_protocol(wire)
    transport.resume_reading()
    return wire


class AsyncioWire(asyncio.BufferedProtocol):
    """A `ServerWire` or a `ClientWire`; ``scratch`` is shared by all wires of an event loop."""

    def __init__(self, scratch: memoryview) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.broke = ""
        self._scratch = scratch
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._transport: asyncio.Transport
        self._on_end: Callable[[], None] | None = None
        self._discarding = self._full = self._lost = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._sent_in_a_row = 0
        self._due = math.inf
        self._alarm: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)  # the system takes what is sent, or we wait

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        if self._discarding:
            return
        buffer = self.buffer
        buffer += self._scratch[:nbytes]
        if len(buffer) >= HIGH_WATER_BYTES:
            self._full = True
            self._transport.pause_reading()
        self.wake()

    def eof_received(self) -> bool:
        """The peer closed its side; ours stays open."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by us or by the peer or by the network."""
        self._lost = True
        if not self.ended:
            self.broke = repr(exc)  # itself, it would know the frame that knows us
        self._end()
        self.resume_writing()
        self._disarm()

    def pause_writing(self) -> None:
        """The system does not take all of what was sent."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """The system has taken it, or there is nobody left to take it."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        self.ended = True
        self.wake()
        if on_end is not None:
            on_end()

    # ------------------------------------------------------------------ both ends

    def wake(self) -> None:
        """Make who waits look again."""
        news = self._news
        if news is not None and not news.done():
            news.set_result(None)

    async def wait(self) -> None:
        """Return when more bytes have come, when no more can come, or after `wake`."""
        if self._full and len(self.buffer) < HIGH_WATER_BYTES:
            self._full = False
            self._transport.resume_reading()
        if self.ended:
            return
        self._sent_in_a_row = 0
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    async def send(self, data: bytes, timeout_s: float = math.inf) -> None:
        """Send; returns when the system has taken it all. Raises BrokenResourceError, TimeoutError.

        Mostly that is at once; then others get their turn after some sends in a row.
        """
        if self._lost or self._transport.is_closing():
            raise anyio.BrokenResourceError(self.broke)
        self._transport.write(data)
        if self._room is not None:
            with anyio.fail_after(timeout_s):
                await self._room
            if self._lost:
                raise anyio.BrokenResourceError(self.broke)
            return
        self._sent_in_a_row += 1
        if self._sent_in_a_row > _SENDS_IN_A_ROW:
            self._sent_in_a_row = 0
            await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Close at once, whatever is under way; safe in a cancelled scope."""
        self._on_end = None
        self._disarm()
        self._transport.abort()

    # ------------------------------------------------------------------ the server's side

    @property
    def peer(self) -> str:
        """The address of the client."""
        return str((self._transport.get_extra_info("peername") or ("",))[0])

    @asynccontextmanager
    async def listening(self, on_end: Callable[[], None]) -> AsyncIterator[None]:
        """Call ``on_end`` when nothing more can come, while the block runs."""
        self._on_end = on_end
        if self.ended:
            self._end()
        try:
            yield
        finally:
            self._on_end = None

    def discard(self) -> None:
        """Drop what is here and what will come."""
        self._discarding = True
        self.buffer.clear()
        if self._full:
            self._full = False
            self._transport.resume_reading()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        with suppress(OSError):  # it is closed already
            self._transport.write_eof()

    def reset_on_close(self) -> None:
        """Make closing drop what is unsent, and say so: the client must not take it for an end."""
        raw: socket | None = self._transport.get_extra_info("socket")
        if raw is not None:
            with suppress(OSError):
                raw.setsockopt(SOL_SOCKET, SO_LINGER, RESET)

    # ------------------------------------------------------------------ the client's side

    @property
    def stale(self) -> bool:
        """Whether an idle connection has something to read: its end, or what nobody asked for."""
        return self.ended or bool(self.buffer)

    async def more(self, due: float) -> bool:
        """Return when more bytes have come or no more can come; False if ``due`` came first.

        One alarm is kept for many waits: it rings at the time of an early one, finds that a later
        one is under way, and is set again.
        """
        self._due = due
        if self._alarm is None or self._alarm.when() > due:
            self._set_alarm()
        await self.wait()
        in_time, self._due = self._due > -math.inf, math.inf
        return in_time

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._due <= self._loop.time():
            self._due = -math.inf
            self.wake()
        elif self._due < math.inf:
            self._set_alarm()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
