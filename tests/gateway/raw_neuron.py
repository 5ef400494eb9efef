"""A neuron that sends exactly the bytes it is told to, in the pieces it is told to.

async with raw_neuron() as neuron, raw_front(neuron) as gw:
    neuron.sends([b"HTTP/1.1 200 OK\\r\\n", b"content-length: 0\\r\\n\\r\\n"])
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import anyio
import anyio.lowlevel

from tests.gateway.front import Front, front
from tests.http.upstreams import Mock as Upstream
from tests.http.upstreams import read_request, upstream
from tests.http.wire import Peer

Talk = Callable[[Peer], Awaitable[bool]]
"""What follows a request; it returns whether the connection can take another one."""


@dataclass
class RawNeuron:
    """``talk`` answers each inference request; ``bodies`` are those that came."""

    upstream: Upstream
    talk: Talk | None = None
    bodies: list[bytes] = field(default_factory=list)

    async def act(self, mock: Upstream, peer: Peer) -> None:
        going_on = True
        while going_on:
            body = await read_request(mock, peer)
            if mock.heads[-1].startswith(b"GET "):
                url = b'{"url":"%b"}' % mock.url.encode()
                await peer.send(head_of(200, {"content-length": str(len(url))}) + url)
                continue
            self.bodies.append(body)
            assert self.talk is not None
            going_on = await self.talk(peer)

    def sends(self, pieces: Sequence[bytes], *, then_close: bool = True) -> None:
        """Answer every request with these pieces, each sent by itself."""

        async def talk(peer: Peer) -> bool:
            for piece in pieces:
                await peer.send(piece)
                await anyio.lowlevel.checkpoint()
            return not then_close

        self.talk = talk


@asynccontextmanager
async def raw_neuron() -> AsyncIterator[RawNeuron]:
    """A raw neuron, for as long as the block lasts."""
    neuron = RawNeuron(Upstream(""))
    async with upstream(neuron.act) as neuron.upstream:
        yield neuron


def raw_front(neuron: RawNeuron, **given: Any) -> AbstractAsyncContextManager[Front]:
    """A gateway in front of it."""
    return front({"mock-node": neuron.upstream.url}, **given)


def head_of(status: int, fields: Mapping[str, str]) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The data in pieces of these sizes, again and again, until it is used up.

    Of much data the pieces are larger, so that there are some hundreds at most.
    """
    turns = cycle(sizes or [len(data) or 1])
    times = 1 + len(data) * len(sizes) // (200 * sum(sizes) or 1)
    pieces, at = [], 0
    while at < len(data):
        pieces.append(data[at : (at := at + times * next(turns))])
    return pieces
