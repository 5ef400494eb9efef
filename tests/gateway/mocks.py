"""Neurons that answer what a test tells them to, over real sockets, and remember what they saw.

    async with mock_neuron(streaming(3, delay_s=0.01)) as mock:
        ...  # mock.url, mock.hits, mock.requests

Without further word a mock has one loaded model, `test-model`, and answers chats and responses.
What is given to `mock_neuron` changes that, in order; `mock.on` changes it later. `gone` makes an
address where nobody listens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from socket import socket
from typing import Any, Literal
from urllib.parse import unquote

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.http.wire import reset

CHAT, COMPLETIONS = "POST /v1/chat/completions", "POST /v1/completions"
RESPONSES, IMAGES = "POST /v1/responses", "POST /v1/images/generations"
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
INFERENCE = (CHAT, COMPLETIONS, RESPONSES, IMAGES)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: ``route`` is the pattern it fits, ``path`` as it was sent."""

    route: str
    path: str
    model: str
    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first field of this name."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name.lower():
                return value.strip()
        return None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: ``parts`` go out one by one, each after ``pause_s``.

    One part is sent with a content length, more are chunked. ``then``: the answer is complete, or
    the connection is reset, or it is kept open and silent. ``wire``: exactly these bytes instead.
    """

    status: int = 200
    parts: Sequence[bytes] = ()
    headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),)
    pause_s: float = 0.0
    then: Literal["end", "reset", "silence"] = "end"
    wire: bytes | None = None


Answer = Reply | Callable[[Seen], Awaitable[Reply]]
Setup = Callable[["MockNeuron"], None]


def as_json(
    value: Any, status: int = 200, headers: Iterable[tuple[str, str]] = (), pause_s: float = 0.0
) -> Reply:
    """A JSON answer."""
    body = json.dumps(value, separators=(",", ":")).encode()
    fields = (("content-type", "application/json"), *headers)
    return Reply(status, (body,), fields, pause_s)


SILENT = Reply(then="silence", wire=b"")
"""No answer at all, until the client leaves."""
RESET = Reply(then="reset", wire=b"")
"""A reset as soon as the request was read."""


@dataclass
class MockNeuron:
    """One neuron. What it says is in plain values, which a test may change at any time.

    ``devices`` maps an index to (total, free) MiB. ``left`` is set when a client closed its
    connection in the middle of an answer.
    """

    url: str
    models: list[dict[str, Any]]
    routes: dict[str, Answer] = field(default_factory=dict)
    devices: dict[int, tuple[int, int]] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)
    most_running: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    left: anyio.Event = field(default_factory=anyio.Event)

    def on(self, route: str, answer: Answer) -> None:
        """Answer a route, such as ``GET /models/{id}/endpoint``, like this from now on."""
        self.routes[route] = answer

    @property
    def hits(self) -> int:
        """How many inference requests came."""
        return sum(seen.route in INFERENCE for seen in self.requests)

    def seen(self, route: str) -> list[Seen]:
        """The requests to one route, oldest first."""
        return [seen for seen in self.requests if seen.route == route]

    def count(self, route: str) -> int:
        """How many requests came to one route."""
        return len(self.seen(route))

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return self.url.removeprefix("http://")

    async def answer(self, seen: Seen) -> Reply:
        answer = self.routes.get(seen.route)
        if answer is None:
            return as_json({"error": "not found"}, 404)
        return answer if isinstance(answer, Reply) else await answer(seen)


def model(id: str, status: str = "loaded", **facts: Any) -> dict[str, Any]:
    """An element of ``GET /models``."""
    usual = {"id": id, "harness": "candle", "status": status, "devices": [0], "vram_used_mb": 8000}
    return usual | {"capabilities": ["text"], "tool_call": False, "reasoning": False} | facts


@asynccontextmanager
async def mock_neuron(*setups: Setup) -> AsyncIterator[MockNeuron]:
    """A mock (fixture M), changed by ``setups``, for as long as the block lasts."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    mock = MockNeuron(f"http://127.0.0.1:{port}", [model("test-model")])
    _plain(mock)
    for setup in setups:
        setup(mock)

    async def serve(stream: SocketStream) -> None:
        mock.connections += 1
        async with stream:
            await _Served(mock, stream).run()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield mock
        tasks.cancel_scope.cancel()


def gone() -> str:
    """The URL of a port where nobody listens."""
    with closing(socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


class _Served:
    """One connection of a mock."""

    def __init__(self, mock: MockNeuron, stream: SocketStream) -> None:
        self._mock = mock
        self._stream = stream
        self._buffer = bytearray()

    async def run(self) -> None:
        try:
            while (seen := await self._request()) is not None:
                self._mock.requests.append(seen)
                if not await self._answered(seen):
                    return
        except GONE:
            self._mock.left.set()

    async def _request(self) -> Seen | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            try:
                self._buffer += await self._stream.receive()
            except GONE:
                return None
        head = bytes(self._buffer[: end + 4])
        del self._buffer[: end + 4]
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        while len(self._buffer) < length:
            self._buffer += await self._stream.receive()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        method, target, _ = head.decode("latin-1").split(" ", 2)
        route, id = _route(target.partition("?")[0])
        return Seen(f"{method} {route}", target, id, head, body)

    async def _answered(self, seen: Seen) -> bool:
        """Answer; whether the connection can take another request."""
        mock, done = self._mock, False
        mock.running[seen.route] += 1
        running = mock.running[seen.route]
        mock.most_running[seen.route] = max(mock.most_running[seen.route], running)

        async def watch() -> None:
            try:
                self._buffer += await self._stream.receive()
            except GONE:
                mock.left.set()
                tasks.cancel_scope.cancel()

        async def respond() -> bool:
            try:
                return await self._send(await mock.answer(seen))
            except GONE:
                mock.left.set()
                return False

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                done = await respond()
                tasks.cancel_scope.cancel()
        finally:
            mock.running[seen.route] -= 1
        return done

    async def _send(self, reply: Reply) -> bool:
        if reply.wire is not None:
            await self._stream.send(reply.wire)
        else:
            await self._send_parts(reply)
        if reply.then == "silence":
            await anyio.sleep_forever()
        if reply.then == "reset":
            reset(self._stream)
        return reply.then == "end" and reply.wire is None

    async def _send_parts(self, reply: Reply) -> None:
        whole = len(reply.parts) <= 1 and reply.then == "end"
        if whole:
            await anyio.sleep(reply.pause_s)
            framing = f"content-length: {sum(map(len, reply.parts))}"
        else:
            framing = "transfer-encoding: chunked"
        fields = [f"{name}: {value}" for name, value in reply.headers]
        lines = [f"HTTP/1.1 {reply.status} X", *fields, framing, "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        if whole:
            await self._stream.send(head + b"".join(reply.parts))
            return
        await self._stream.send(head)
        for part in reply.parts:
            await anyio.sleep(reply.pause_s)
            await self._stream.send(b"%x\r\n%b\r\n" % (len(part), part))
        if reply.then == "end":
            await self._stream.send(b"0\r\n\r\n")


def _route(path: str) -> tuple[str, str]:
    parts = path.split("/")
    if len(parts) == 4 and parts[1] == "models":
        return f"/models/{{id}}/{parts[3]}", unquote(parts[2])
    return path, ""


def _plain(mock: MockNeuron) -> None:
    async def models(_: Seen) -> Reply:
        return as_json(mock.models)

    async def endpoint(seen: Seen) -> Reply:
        return as_json({"url": mock.url})

    async def chat(seen: Seen) -> Reply:
        return as_json(chat_answer(seen.json["model"]))

    async def responses(seen: Seen) -> Reply:
        return as_json(responses_answer(seen.json["model"]))

    mock.on("GET /models", models)
    mock.on("GET /models/{id}/endpoint", endpoint)
    mock.on("POST /models/unload", as_json({"status": "unloaded"}))
    mock.on(CHAT, chat)
    mock.on(RESPONSES, responses)


def chat_answer(model: str) -> dict[str, Any]:
    """What a mock answers to a chat."""
    message = {"role": "assistant", "content": "Hello from mock backend"}
    return {
        "id": "chatcmpl-test-001",
        "object": "chat.completion",
        "created": 1700000000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def responses_answer(model: str) -> dict[str, Any]:
    """What a mock answers to a response."""
    text = {"type": "output_text", "text": "Hello from mock backend", "annotations": []}
    message = {"type": "message", "id": "msg-test-001", "role": "assistant"}
    return {
        "id": "resp-test-001",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "model": model,
        "output": [{**message, "content": [text], "status": "completed"}],
        "usage": {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10},
    }
