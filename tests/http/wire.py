"""A client that sends exactly the bytes it is told to, and servers to send them to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from helexa.http import Request, Response, Server, json_response
from helexa.http.framing import ChunkedBody, LengthBody

SOON_S = 3.0  # it is a matter of milliseconds, on a machine with nothing else to do
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def post(body: bytes, *fields: str, path: str = "/") -> bytes:
    """A JSON request."""
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


@dataclass
class Peer:
    """The client's side of a connection."""

    stream: ByteStream
    buffer: bytearray = field(default_factory=bytearray)

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def until(self, end: bytes) -> bytes:
        """Everything up to and with ``end``; what came before the connection ended if it did."""
        with anyio.fail_after(20):
            while (at := self.buffer.find(end)) < 0:
                try:
                    self.buffer += await self.stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    at = len(self.buffer)
                    break
        taken = bytes(self.buffer[: at + len(end)])
        del self.buffer[: at + len(end)]
        return taken

    async def answer(self, *, head_only: bool = False) -> Answer:
        """Read one answer whole."""
        head = await self.until(b"\r\n\r\n")
        assert head.endswith(b"\r\n\r\n"), f"no answer, only {head!r}"
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = [line.split(": ", 1) for line in lines]
        headers = [(name, value) for name, value in pairs]
        status = int(first.split(" ")[1])
        if status == 100:
            return Answer(status, headers, b"")
        fields = dict(headers)
        if head_only or status in (204, 304):
            return Answer(status, headers, b"")
        if "transfer-encoding" not in fields and "content-length" not in fields:
            return Answer(status, headers, await self.until(b"\0never\0"))
        chunked = "transfer-encoding" in fields
        body = ChunkedBody() if chunked else LengthBody(int(fields["content-length"]))
        content = body.feed(self.buffer)
        with anyio.fail_after(20):
            while not body.done:
                self.buffer += await self.stream.receive()
                content += body.feed(self.buffer)
        return Answer(status, headers, content)

    async def ended(self) -> bool:
        """Whether the server closes the connection (soon), with nothing more to say."""
        return await self.until(b"\0never\0") == b""


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Peer]:
    """A connection to a server, closed at the end of the block."""
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        yield Peer(stream)


async def ask(server: Server, wire: bytes) -> Answer:
    """One request over a connection of its own."""
    async with connected(server) as peer:
        await peer.send(wire)
        return await peer.answer()


def reset(stream: SocketStream) -> None:
    """Make closing the connection send a reset."""
    from socket import SO_LINGER, SOL_SOCKET
    from struct import pack

    stream.extra(SocketAttribute.raw_socket).setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))


async def echo(request: Request) -> Response:
    """Tell what was asked."""
    body = await request.body()
    return json_response(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "params": request.params,
            "id": request.id,
            "body": body.decode("latin-1"),
        }
    )


class Stuck:
    """A handler that never answers, and tells when it was entered and when it was cancelled."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.left = anyio.Event()

    async def __call__(self, _: Request) -> Response:
        self.entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.left.set()
        raise AssertionError


async def soon(event: anyio.Event) -> None:
    """Fail unless it happens at once."""
    with anyio.fail_after(SOON_S):
        await event.wait()


async def settle(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return as soon as the condition holds; fail if it never does."""
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  # it is another task's doing, and has no event
            await anyio.sleep(0.005)


Handler = Callable[[Request], Awaitable[Response]]
