"""Connections as they arrive at a listener, each opened in a task of its own."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import partial
from socket import IPPROTO_TCP, TCP_NODELAY, socket

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from anyio.streams.tls import TLSStream

from helexa.http.asyncio_wire import AsyncioWire, new_scratch, running_loop
from helexa.http.stream_wire import StreamWire
from helexa.http.wire import ServerWire


@dataclass(frozen=True, slots=True)
class Secure:
    """How to open a connection under TLS, and how long that may take."""

    context: ssl.SSLContext
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that was accepted, and nothing more."""

    _accepted: SocketStream | AsyncioWire
    _secure: Secure | None

    async def open(self) -> ServerWire:
        """The wire to talk over; under TLS, once both sides agree."""
        if isinstance(self._accepted, AsyncioWire):
            return self._accepted
        if self._secure is None:
            return StreamWire(self._accepted)
        with anyio.fail_after(self._secure.timeout_s):
            stream = await TLSStream.wrap(
                self._accepted,
                server_side=True,
                ssl_context=self._secure.context,
                standard_compatible=False,
            )
        return StreamWire(stream)

    async def close(self) -> None:
        """Close at once; safe in a cancelled scope."""
        if isinstance(self._accepted, AsyncioWire):
            await self._accepted.close()
        else:
            await anyio.aclose_forcefully(self._accepted)


class Arrivals:
    """What arrives at one listener."""

    def __init__(self, listener: SocketListener, secure: Secure | None) -> None:
        self._listener = listener
        self._secure = secure
        self._loop = running_loop() if secure is None else None
        self._new_wire = partial(AsyncioWire, new_scratch())

    async def next(self) -> Arrival:
        """Wait for one. Raises OSError."""
        if self._loop is None:
            return Arrival(await self._listener.accept(), self._secure)
        return Arrival(await self._accept(self._loop), None)

    async def _accept(self, loop: asyncio.AbstractEventLoop) -> AsyncioWire:
        listening: socket = self._listener.extra(SocketAttribute.raw_socket)
        accepted, _ = await loop.sock_accept(listening)
        accepted.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # else a last chunk waits for an ACK
        _, wire = await loop.connect_accepted_socket(self._new_wire, accepted)
        return wire
