"""A neuron that keeps count of what it serves, and what its clients need to do the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.gateway_mock import control_plane

PATH = "/v1/chat/completions"
SILENT = ("stall", "silent")
MOODY = ("break", *SILENT)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BROKEN = (OSError, asyncio.IncompleteReadError, ValueError)


def chunk(event: dict[str, Any] | str) -> bytes:
    """One event as one chunk."""
    text = event if isinstance(event, str) else json.dumps(event)
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a message whose length is told."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    return head, await reader.readexactly(length)


class Neuron:
    """Answers chats with as many tokens as they ask for; ``served`` says how many, by request.

    A token counts when it is about to be written, so that none that came is missed. Asked for that
    by ``mood``, it breaks off (`break`), goes silent (`stall`), or does not answer (`silent`).
    """

    def __init__(self) -> None:
        self.url = ""
        self.served: dict[str, int] = {}
        self._busy = self._connections = 0
        self._rested = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Neuron]:
        """A neuron, as long as the block lasts."""
        neuron = cls()
        server = await asyncio.start_server(neuron._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        neuron.url = f"http://{host}:{port}"
        async with server:
            yield neuron
            while neuron._connections:  # the gateway is gone, so they end by themselves
                neuron._rested.clear()
                await neuron._rested.wait()

    async def idle(self) -> None:
        """Wait until nobody is answered any more."""
        while self._busy:
            self._rested.clear()
            await self._rested.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plane = control_plane(self.url)
        self._connections += 1
        try:
            going_on = True
            while going_on:
                head, body = await read_message(reader)
                if head.startswith(b"POST"):
                    going_on = await self._answer(head, json.loads(body), reader, writer)
                else:
                    writer.write(plane[head.split(b" ", 2)[1]])
                await writer.drain()
        except BROKEN:
            pass
        finally:
            writer.transport.abort()
            self._connections -= 1
            self._rested.set()

    async def _answer(
        self,
        head: bytes,
        asked: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer a chat; whether the connection can take another one."""
        self._busy += 1
        try:
            await self._chat(head, asked, writer)
            if asked.get("mood") in SILENT:
                await reader.read(1)  # until the gateway leaves
            return asked.get("mood") not in MOODY
        finally:
            self._busy -= 1
            self._rested.set()

    async def _chat(self, head: bytes, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        id = head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
        size, usage = asked["size"], {"prompt_tokens": 0, "completion_tokens": asked["size"]}
        self.served[id] = 0
        if asked.get("mood") == "silent":
            return
        if not asked["stream"]:
            await asyncio.sleep(size / 3000)
            self.served[id] = size
            message = {"role": "assistant", "content": "x" * size}
            body = json.dumps({"choices": [{"message": message}], "usage": usage}).encode()
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            writer.write(head % len(body) + body)
            return
        writer.write(STREAM)
        for _ in range(size):
            self.served[id] += 1
            writer.write(chunk({"choices": [{"index": 0, "delta": {"content": "x"}}]}))
            await writer.drain()
            await asyncio.sleep(0.0005)
        if asked.get("mood") not in MOODY:
            writer.write(chunk({"choices": [], "usage": usage}) + chunk("[DONE]") + b"0\r\n\r\n")
