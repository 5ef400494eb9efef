"""A handler of ours as an ASGI app: by hand, and mounted in Starlette under uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from helexa.http import (
    AsgiApp,
    Ending,
    EventStream,
    Request,
    Response,
    Router,
    StreamingResponse,
    event,
    json_response,
)
from tests.http.wire import Stuck, echo, soon

pytestmark = pytest.mark.anyio


class House:
    """A router, and what its lifespan and its observer saw."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.endings: list[str] = []
        self.stuck = Stuck()
        self.left = anyio.Event()
        router = Router()
        router.add("GET", "/models/{id}", echo)
        router.add("POST", "/echo", echo)
        router.add("POST", "/json", self._json)
        router.add("GET", "/stream", self._stream)
        router.add("GET", "/stuck", self.stuck)
        router.add("GET", "/cut", self._cut)
        self.app = AsgiApp(
            router, lifespan=self._lifespan, max_body_bytes=1000, observe=self._observe
        )

    def _observe(self, request: Request, ending: Ending) -> None:
        self.endings.append(f"{request.route} {ending.status} {ending.outcome}")

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        self.log.append("up")
        yield
        self.log.append("down")

    async def _json(self, request: Request) -> Response:
        return json_response(await request.json())

    async def _stream(self, _: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                yield event("one")
                yield event("two")
                await anyio.sleep_forever()
            finally:
                self.left.set()

        return EventStream(events(), keep_alive_s=0.1)

    async def _cut(self, _: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        return StreamingResponse(parts())


@pytest.fixture
def house() -> House:
    return House()


def by_hand(house: House) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url="http://x")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # on trio, httpx leaves generators open
async def test_requests_by_hand(house: House, anyio_backend: str) -> None:
    async with by_hand(house) as client:
        answer = await client.get("/models/org%2Fname?a=b", headers={"x-request-id": "abc"})
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == "abc"
        assert answer.json()["params"] == {"id": "org/name"}
        assert answer.json()["query"] == "a=b"
        assert (await client.post("/echo", content=b"x" * 1000)).json()["body"] == "x" * 1000
        assert (await client.post("/echo", content=b"x" * 1001)).status_code == 413
        assert (await client.post("/json", json={"a": 1})).json() == {"a": 1}
        assert (await client.post("/json", content=b"{}")).status_code == 415
        assert (await client.get("/nope")).json()["error"]["code"] == "unknown_url"
        assert (await client.delete("/echo")).headers["allow"] == "POST"
        head = await client.head("/models/a")
        assert (head.status_code, head.content) == (200, b"")
    assert house.endings[0] == "/models/{id} 200 done"


async def call(app: AsgiApp, scope: dict[str, Any], *messages: dict[str, Any]) -> list[Any]:
    """What an app sends when it gets these messages, and then nothing."""
    waiting, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await anyio.sleep_forever()
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_lifespan(house: House) -> None:
    messages = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    sent = await call(house.app, {"type": "lifespan"}, *messages)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert house.log == ["up", "down"]


async def test_a_lifespan_that_fails_says_so() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise ZeroDivisionError("no model")
        yield

    app = AsgiApp(echo, lifespan=broken)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ZeroDivisionError):
        await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no model"}]


async def test_other_protocols_are_declined(house: House) -> None:
    assert await call(house.app, {"type": "websocket"}) == [
        {"type": "websocket.close", "code": 1000}
    ]
    with pytest.raises(ValueError, match="not supported"):
        await call(house.app, {"type": "smoke"})


def scope(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [], **more}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (scope("/models/a"), "/models/a"),
        (scope("/m/models/a", root_path="/m"), "/models/a"),
        (scope("/m/models/a/b", raw_path=b"/m/models/a%2Fb", root_path="/m"), "/models/a%2Fb"),
        (scope("/é/models/a", raw_path=b"/%C3%A9/models/a", root_path="/é"), "/models/a"),
        (scope("/models/a b", root_path="/elsewhere"), "/models/a%20b"),
    ],
)
async def test_paths_below_a_mount(house: House, given: dict[str, Any], path: str) -> None:
    sent = await call(house.app, given, {"type": "http.request"})
    assert f'"path":"{path}"'.encode() in sent[1]["body"]


async def test_n026_a_disconnect_cancels(house: House) -> None:
    messages = ({"type": "http.request"}, {"type": "http.disconnect"})
    with anyio.fail_after(1):
        assert await call(house.app, scope("/stuck"), *messages) == []
    assert house.stuck.left.is_set()
    assert house.endings == ["/stuck None gone"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_mounted_in_starlette_under_uvicorn(house: House, anyio_backend: str) -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with house._lifespan():
            yield

    outer = Starlette(routes=[Mount("/llm", app=house.app)], lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(outer, port=0, log_level="critical", ws="none"))
    running = asyncio.create_task(server.serve())
    with anyio.fail_after(10):
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await anyio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/llm") as client:
        answer = await client.get("/models/org%2Fname")
        assert answer.json()["params"] == {"id": "org/name"}
        assert (await client.post("/echo", content=b"x" * 1001)).status_code == 413
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/cut")
        async with client.stream("GET", "/stream") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            lines = stream.aiter_lines()
            got = [await anext(lines) for _ in range(5)]
            assert got == ["data: one", "", "data: two", "", ":"]
        await soon(house.left)
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/stuck", timeout=0.2)
        await soon(house.stuck.left)
    server.should_exit = True
    await running
    assert house.log == ["up", "down"]
