"""A mock neuron that answers from memory, as fast as an event loop can.

One loaded model, ``mock``. A chat gets one JSON answer, or, with ``stream``, a hundred chunks, each
a write of its own; if ``pause`` stands in the request, it pauses after the first one.

    python -m benchmarks.gateway_mock                # prints its URL, serves until it is ended
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

CHUNKS = 100
PAUSE_S = 0.1
MODEL = "mock"


def _whole(value: object) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _chunk(choice: dict[str, object], **more: object) -> bytes:
    event = {
        **{"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": MODEL},
        **{"choices": [{"index": 0, "finish_reason": None, **choice}], **more},
    }
    data = b"data: %b\n\n" % json.dumps(event, separators=(",", ":")).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


_USAGE = {"prompt_tokens": 9, "completion_tokens": CHUNKS, "total_tokens": 9 + CHUNKS}
_MESSAGE = {"role": "assistant", "content": "x" * 300}
_ANSWER = _whole(
    {
        **{"id": "chatcmpl-mock", "object": "chat.completion", "created": 1, "model": MODEL},
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_TOKEN = _chunk({"delta": {"role": "assistant", "content": "token"}})
_LAST = _chunk({"delta": {}, "finish_reason": "stop"}, usage=_USAGE)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Mock(asyncio.Protocol):
    """Answers one request after another."""

    def __init__(self, url: str) -> None:
        self._buffer = b""
        self._plane = control_plane(url)
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        asked, self._buffer = body[:length], body[length:]
        if lower.startswith(b"post"):
            self._chat(asked)
        else:
            self._transport.write(self._plane.get(head.split(b" ", 2)[1], _NOT_FOUND))

    def _chat(self, asked: bytes) -> None:
        if b'"stream":true' not in asked.replace(b" ", b""):
            self._transport.write(_ANSWER)
            return
        self._transport.write(_STREAM_HEAD)
        self._transport.write(_TOKEN)
        if b"pause" in asked:
            self._loop.call_later(PAUSE_S, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        for _ in range(CHUNKS - 3):
            self._transport.write(_TOKEN)
        self._transport.write(_LAST)
        self._transport.write(_END)


def control_plane(url: str) -> dict[bytes, bytes]:
    """What a gateway asks a neuron about itself."""
    limit = {"context": 32768, "output": 4096}
    model = {"id": MODEL, "status": "loaded", "capabilities": ["text"], "limit": limit}
    load = {"id": MODEL, "in_flight": 0, "queue_depth": 0}
    return {
        b"/discovery": _whole({"hostname": "mock", "devices": [], "harnesses": ["candle"]}),
        b"/models": _whole([{**model, "harness": "candle", "devices": []}]),
        b"/health": _whole({"uptime_secs": 1, "devices": [], "models": [load]}),
        f"/models/{MODEL}/endpoint".encode(): _whole({"url": url}),
    }


async def serve() -> None:
    """Print the URL, serve until cancelled."""
    url = ""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Mock(url), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    url = f"http://{host}:{port}"
    print(url, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
