"""A mock upstream that answers from memory, as fast as an event loop can."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from benchmarks.relay_load import CHUNKS

_JSON = (
    b'{"id":"mock","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}'
    % (b"x" * 300)
)
_EVENT = (
    b'data: {"id":"mock","object":"chat.completion.chunk",'
    b'"choices":[{"index":0,"delta":{"content":"token"}}]}\n\n'
)
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_JSON_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_JSON), _JSON)
)
_END = b"0\r\n\r\n"


class _Mock(asyncio.Protocol):
    """Answers each request that has a content length, by its path."""

    def __init__(self) -> None:
        self._buffer = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        if b" /v1/json " in head:
            self._transport.write(_JSON_ANSWER)
        elif b" /v1/stream " in head:
            self._transport.writelines([_STREAM_HEAD, *[_CHUNK] * CHUNKS, _END])
        else:
            task = asyncio.get_running_loop().create_task(self._slowly())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _slowly(self) -> None:
        self._transport.write(_STREAM_HEAD)
        for _ in range(CHUNKS):
            self._transport.write(_CHUNK)
            await asyncio.sleep(0.001)
        self._transport.write(_END)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Mock, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)
    await server.serve_forever()


def serve_mock() -> None:
    """Print the URL, serve until the process is ended."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve())
