"""A connection, as the two who use it see it: bytes that have come, and a way to send some.

Over any stream of anyio it is a `StreamWire` or a `PulledWire`; asyncio's own sockets have a faster
one, `AsyncioWire`. They differ in nothing but what they cost.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio

HIGH_WATER_BYTES = 128 * 1024
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
BROKEN = (*GONE, anyio.BusyResourceError, ssl.SSLError, OSError)


class Wire(Protocol):
    """What is common to both ends. ``buffer`` holds the bytes that nobody has used yet."""

    buffer: bytearray
    ended: bool
    """Nothing more will come: the peer closed its side, or the connection broke."""

    async def send(self, data: bytes, timeout_s: float = math.inf) -> None:
        """Send; returns when the system has taken it all. Raises one of `BROKEN`, TimeoutError."""
        ...

    async def close(self) -> None:
        """Close at once, whatever is under way; safe in a cancelled scope."""
        ...


class ServerWire(Wire, Protocol):
    """The server's side: read ahead at all times, so that a client's leaving is seen.

    Reading stops while much is waiting, so that a client cannot fill the memory; what was read is
    never lost, it is the next request's beginning.
    """

    @property
    def peer(self) -> str:
        """The address of the client."""
        ...

    def listening(self, on_end: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Read ahead while the block runs; ``on_end`` is called when nothing more can come."""
        ...

    async def wait(self) -> None:
        """Return when more bytes have come than were here, when no more can, or after `wake`."""
        ...

    def wake(self) -> None:
        """Make who waits look again."""
        ...

    def discard(self) -> None:
        """Drop what is here and what will come."""
        ...

    async def send_eof(self) -> None:
        """Say that nothing more will be sent. Raises one of `BROKEN`."""
        ...

    def reset_on_close(self) -> None:
        """Make closing drop what is unsent, and say so: the client must not take it for an end."""
        ...


class ClientWire(Wire, Protocol):
    """The client's side: somebody waits for an answer, for so long."""

    broke: str
    """What broke the connection; empty if the peer closed its side."""

    @property
    def stale(self) -> bool:
        """Whether an idle connection has something to read: its end, or what nobody asked for."""
        ...

    @property
    def now(self) -> Callable[[], float]:
        """The clock of ``due``, in seconds."""
        ...

    async def more(self, due: float) -> bool:
        """Wait for more bytes than are here, or for the end; False if ``due`` came first."""
        ...
