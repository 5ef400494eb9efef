"""Upstream servers that answer exactly the bytes they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.http.wire import Peer

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Mock:
    """What an upstream saw. ``left`` is set when a client closed its connection early."""

    url: str
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    left: anyio.Event = field(default_factory=anyio.Event)


Act = Callable[[Mock, Peer], Awaitable[None]]


async def read_request(mock: Mock, peer: Peer) -> bytes:
    """The body of the next request; its head is noted. Raises EndOfStream if there is none."""
    head = await peer.until(b"\r\n\r\n")
    if not head:
        raise anyio.EndOfStream
    mock.heads.append(head)
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    while len(peer.buffer) < length:
        peer.buffer += await peer.stream.receive()
    body = bytes(peer.buffer[:length])
    del peer.buffer[:length]
    return body


@asynccontextmanager
async def upstream(act: Act) -> AsyncIterator[Mock]:
    """``act`` is run for each connection, which is closed when it returns."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    mock = Mock(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")

    async def serve(stream: SocketStream) -> None:
        async with stream:
            mock.connections += 1
            try:
                await act(mock, Peer(stream))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                mock.left.set()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield mock
        tasks.cancel_scope.cancel()


def answering(wire: bytes = OK, pause_s: float = 0.0, at: int = 0) -> Act:
    """Answer every request with these bytes, with a pause in them."""

    async def act(mock: Mock, peer: Peer) -> None:
        while True:
            await read_request(mock, peer)
            if at or pause_s:
                if at:
                    await peer.send(wire[:at])
                await anyio.sleep(pause_s)
            await peer.send(wire[at:])

    return act


def answering_once(wire: bytes) -> Act:
    """Answer one request with these bytes, then close the connection."""

    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        await peer.send(wire)

    return act
