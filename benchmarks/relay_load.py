"""Asking, as fast as connections allow: each sends its next request when it has its answer."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

CHUNKS = 100
_BODY = b'{"model":"mock","messages":[{"role":"user","content":"Hi"}]}'
_STREAM_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask for, over how many connections at a time."""

    path: str
    connections: int


@dataclass(slots=True)
class Result:
    """What came back: answers, seconds, seconds until each answer was whole, relay CPU seconds."""

    count: int = 0
    elapsed_s: float = 0.0
    cpu_s: float | None = None
    latencies_s: list[float] = field(default_factory=list)


class _Asker(asyncio.Protocol):
    def __init__(self, wire: bytes, result: Result, done: asyncio.Event) -> None:
        self._wire = wire
        self._result = result
        self._done = done
        self._answer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done.is_set():
            self.closed.set_result(None)
        else:
            self.closed.set_exception(ConnectionError("a connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not _complete(self._answer):
            return
        self._result.count += 1
        self._result.latencies_s.append(time.perf_counter() - self._began)
        if self._done.is_set():
            self._transport.close()
        else:
            self._ask()

    def _ask(self) -> None:
        self._answer.clear()
        self._began = time.perf_counter()
        self._transport.write(self._wire)


def _complete(answer: bytearray) -> bool:
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    assert answer.startswith(b"HTTP/1.1 200"), bytes(answer)
    at = answer.find(b"content-length: ", 0, head)
    if at < 0:
        return answer.endswith(_STREAM_END)
    return len(answer) >= head + 4 + int(answer[at + 16 : answer.index(b"\r", at)])


async def run_load(url: str, load: Load, seconds: float, *, cpu: bool) -> Result:
    """Ask for so long; ``cpu`` also asks what CPU time that cost the server."""
    parts = urlsplit(url)
    head = (
        f"POST {load.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nuser-agent: benchmark\r\n"
        f"accept: */*\r\ncontent-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
    )
    wire, done, result = head.encode() + _BODY, asyncio.Event(), Result()
    loop = asyncio.get_running_loop()
    cpu_before = _cpu_s(url) if cpu else None
    began = time.perf_counter()
    askers = [_Asker(wire, result, done) for _ in range(load.connections)]
    for asker in askers:
        await loop.create_connection(partial(_same, asker), parts.hostname, parts.port)
    await asyncio.sleep(seconds)
    done.set()
    await asyncio.gather(*(asker.closed for asker in askers))
    result.elapsed_s = time.perf_counter() - began
    if cpu_before is not None:
        result.cpu_s = _cpu_s(url) - cpu_before
    return result


def _same(asker: _Asker) -> _Asker:
    return asker


def _cpu_s(url: str) -> float:
    with urllib.request.urlopen(f"{url}/cpu", timeout=10) as answer:
        return float(json.load(answer))
