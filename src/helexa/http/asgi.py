"""Any handler of ours as an ASGI application: mounted in another framework, or served by another
server.

    app = Starlette(routes=[Mount("/llm", app=AsgiApp(router))], lifespan=...)

A mounted app is not told of startup and shutdown: what it needs, the outer lifespan opens.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from urllib.parse import quote, unquote

import anyio
import anyio.lowlevel
from anyio.abc import ObjectReceiveStream

from helexa.errors import HelexaError
from helexa.http.budget import BodyBudget, BodyLimits
from helexa.http.config import MIB
from helexa.http.exchange import Handler, answer
from helexa.http.headers import Field, Headers, fields_of
from helexa.http.request import Ending, Observe, Request
from helexa.http.response import LastWords, Render, render_error

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Lifespan = Callable[[], AbstractAsyncContextManager[object]]

_WAITING_PARTS = 16
_OURS = frozenset({b"connection", b"transfer-encoding", b"keep-alive", b"x-request-id"})


class AsgiApp:
    """An ASGI 3 application. ``lifespan`` is entered at its startup and left at its shutdown."""

    def __init__(
        self,
        handler: Handler,
        *,
        lifespan: Lifespan = nullcontext,
        max_body_bytes: int = 64 * MIB,
        body_budget: BodyBudget | None = None,
        render: Render = render_error,
        observe: Observe | None = None,
    ) -> None:
        self._handler = handler
        self._lifespan = lifespan
        self._limits = BodyLimits(max_body_bytes, body_budget)
        self._render = render
        self._observe = observe

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            raise ValueError(f"ASGI scope of type {scope['type']!r} is not supported")

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        parts_in, parts = anyio.create_memory_object_stream[bytes](_WAITING_PARTS)
        headers = Headers(fields_of(scope["headers"]))
        path, query = _raw_path(scope), scope.get("query_string", b"").decode("ascii")
        client = scope.get("client") or ("", 0)
        request = Request(
            *(scope["method"], path, query, headers, _Body(parts, headers)),
            client=client[0],
            limits=self._limits,
        )
        began, outcome = time.monotonic(), "gone"

        async def listen(tasks: anyio.abc.TaskGroup) -> None:
            """Take in the body, then wait for the client to leave: that ends the request."""
            with parts_in:
                while (message := await receive())["type"] == "http.request":
                    await parts_in.send(message.get("body", b""))
                    if not message.get("more_body", False):
                        parts_in.close()
            tasks.cancel_scope.cancel()

        with parts_in, parts:
            sink = _AsgiSink(send, request)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(listen, tasks)
                    intact = await answer(self._handler, request, sink, self._render)
                    outcome = "done" if intact else "cut"
                    tasks.cancel_scope.cancel()
            finally:
                if self._observe is not None:
                    took_s = time.monotonic() - began
                    self._observe(request, Ending(sink.status, outcome, took_s, sink.sent_bytes))
        if outcome == "cut":  # the server's own way to cut the connection
            raise HelexaError("the answer broke off after its head")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            async with self._lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:  # the server around us is told, and logs it
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


class _Body:
    """The body of an ASGI request."""

    def __init__(self, parts: ObjectReceiveStream[bytes], headers: Headers) -> None:
        declared = headers.get("content-length", "")
        self.content_length = int(declared) if declared and declared.isdecimal() else None
        self._parts = parts

    async def read(self) -> bytes:
        try:
            while not (part := await self._parts.receive()):
                pass
        except anyio.EndOfStream:
            return b""
        return part


class _AsgiSink:
    """Writes one answer to an ASGI server, which does the framing."""

    def __init__(self, send: Send, request: Request) -> None:
        self.head_only = request.method == "HEAD"
        self.last_words: LastWords | None = None
        self.words_end = True
        self.status: int | None = None
        self.sent_bytes = 0
        self._send = send
        self._request_id = request.id.encode("latin-1")

    @property
    def started(self) -> bool:
        """Whether a head has been written: no other one can follow."""
        return self.status is not None

    async def whole(self, status: int, fields: list[Field], body: bytes) -> None:
        """Head and body."""
        if not any(name == b"content-length" for name, _ in fields) and status != 204:
            fields = [*fields, (b"content-length", b"%d" % len(body))]
        await self.start(status, fields)
        await self._body(body, more=False)

    async def start(
        self, status: int, fields: list[Field], first: bytes = b"", *, last: bool = False
    ) -> None:
        """The head, and the first bytes of the body if there are some already."""
        kept = [field for field in fields if field[0] not in _OURS]
        headers = [*kept, (b"x-request-id", self._request_id)]
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if first:
            await self._body(first, more=True)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """More of the body."""
        if data:
            await self._body(data, more=True)

    async def end(self) -> None:
        """The body is complete."""
        await self._body(b"", more=False)

    async def _body(self, data: bytes, *, more: bool) -> None:
        data = b"" if self.head_only else data
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.sent_bytes += len(data)


def _raw_path(scope: Message) -> str:
    """The percent-encoded path below the mount point."""
    raw: bytes | None = scope.get("raw_path")
    path = raw.decode("ascii") if raw else quote(scope["path"])
    root = scope.get("root_path", "").rstrip("/")
    if not root:
        return path
    below = len(root.split("/"))
    segments = path.split("/")
    if unquote("/".join(segments[:below])) != root:
        return path
    return "/" + "/".join(segments[below:])
