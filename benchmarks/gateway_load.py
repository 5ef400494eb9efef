"""Asking, as fast as connections allow: each sends its next request when it has its answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from benchmarks.gateway_mock import MODEL

KEY = "sk-benchmark"
PATH = "/v1/chat/completions"
_STREAM_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask for, over how many connections at a time."""

    connections: int
    stream: bool = False
    pause: bool = False

    def wire(self, host: str) -> bytes:
        """The request, with the fields that an SDK sends."""
        text = "pause" if self.pause else "Hi"
        asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 100}
        body = json.dumps(asked | {"stream": self.stream}, separators=(",", ":")).encode()
        lines = (
            f"POST {PATH} HTTP/1.1",
            f"Host: {host}",
            "Accept: application/json",
            "Accept-Encoding: gzip, deflate",
            "Connection: keep-alive",
            "User-Agent: OpenAI/Python 2.8.0",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            f"Authorization: Bearer {KEY}",
            *("", ""),
        )
        return "\r\n".join(lines).encode() + body


@dataclass(slots=True)
class Result:
    """What came back: answers, and seconds until each had its first and its last byte."""

    count: int = 0
    elapsed_s: float = 0.0
    first_bytes_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


class _Asker(asyncio.Protocol):
    def __init__(self, wire: bytes, result: Result, done: asyncio.Event) -> None:
        self._wire = wire
        self._result = result
        self._done = done
        self._answer = bytearray()
        self._head_end = self._length = 0
        self._began = 0.0
        self._first_byte_s: float | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("a connection was closed")

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        answer += data
        if not self._head_end and not self._read_head():
            return  # it is not there yet, or says no
        if self._first_byte_s is None and len(answer) > self._head_end:
            self._first_byte_s = time.perf_counter() - self._began
        if self._length:
            whole = len(answer) >= self._head_end + self._length
        else:
            whole = answer.endswith(_STREAM_END)
        if whole:
            self._end()

    def _read_head(self) -> bool:
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._answer[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            self._fail(f"the answer is {bytes(self._answer)!r}")
            return False
        self._head_end = end + 4
        self._length = int(head.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        return True

    def _fail(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_exception(ConnectionError(reason))
            self._transport.close()

    def _end(self) -> None:
        result = self._result
        result.count += 1
        result.latencies_s.append(time.perf_counter() - self._began)
        result.first_bytes_s.append(self._first_byte_s or 0.0)
        if self._done.is_set():
            self.closed.set_result(None)
            self._transport.close()
        else:
            self._ask()

    def _ask(self) -> None:
        self._answer.clear()
        self._head_end = self._length = 0
        self._first_byte_s = None
        self._began = time.perf_counter()
        self._transport.write(self._wire)


async def run_load(url: str, load: Load, seconds: float) -> Result:
    """Ask for so long. Raises ConnectionError if that fails, or for an answer other than 200."""
    netloc = urlsplit(url).netloc
    host, _, port = netloc.partition(":")
    done, result = asyncio.Event(), Result()
    wire = load.wire(netloc)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    askers: Sequence[_Asker] = [_Asker(wire, result, done) for _ in range(load.connections)]
    for asker in askers:
        await loop.create_connection(partial(_itself, asker), host, int(port))
    await asyncio.sleep(seconds)
    done.set()
    await asyncio.gather(*(asker.closed for asker in askers))
    result.elapsed_s = time.perf_counter() - began
    return result


def _itself(asker: _Asker) -> _Asker:
    return asker
