"""The end of a server: running requests finish, or are told why they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from helexa.http import (
    EventStream,
    Request,
    Response,
    Server,
    ServerConfig,
    StreamingResponse,
    event,
    serving,
)
from helexa.http.faults import BindError
from tests.http.wire import GET, Stuck, connected, echo, soon

pytestmark = pytest.mark.anyio
QUICK = ServerConfig(linger_s=0.3)


async def counting(_: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        for n in range(4):
            yield event({"n": n})
            await anyio.sleep(0.05)
        yield event("[DONE]")

    return EventStream(events())


async def endless(_: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        yield event("first")
        await anyio.sleep_forever()

    return EventStream(events())


async def test_n009_a_running_stream_finishes() -> None:
    server = Server(counting, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer, connected(server) as idle:
            await peer.send(GET)
            await peer.until(b"data: ")
            server.stop()
            assert await idle.ended()
            assert b"[DONE]" in await peer.until(b"0\r\n\r\n")
            assert await peer.ended()


async def test_n009_no_new_connection_is_taken() -> None:
    stuck = Stuck()
    server = Server(stuck, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await soon(stuck.entered)
            server.stop()
            await anyio.sleep(0.05)
            with pytest.raises(OSError):
                await anyio.connect_tcp("127.0.0.1", server.port)


async def test_n010_a_stream_past_the_deadline_is_told() -> None:
    server = Server(endless, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.until(b"data: first\n\n")
            server.stop(0.05)
            rest = await peer.until(b"0\r\n\r\n")
            assert b'"code":"shutting_down"' in rest
            assert b"[DONE]" not in rest
            assert await peer.ended()


async def test_n010_a_stream_past_the_deadline_is_told_behind_what_is_being_written() -> None:
    async def flood(_: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            while True:
                yield event("x" * 2**20)

        return EventStream(events())

    server = Server(flood, ServerConfig(linger_s=5))
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.until(b"data: ")
            await anyio.sleep(0.2)  # until the buffers are full and a write has to wait
            server.stop(0.05)
            await anyio.sleep(0.2)
            rest = await peer.until(b"0\r\n\r\n")
            assert rest.endswith(b"\r\n0\r\n\r\n")
            assert b'"code":"shutting_down"' in rest[-500:]
            assert await peer.ended()


async def test_n010_a_stream_is_told_though_it_was_about_to_go_on() -> None:
    go = anyio.Event()

    async def waiting(_: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield event("first")
            await go.wait()
            yield event("second")
            await anyio.sleep_forever()

        return EventStream(events())

    server = Server(waiting, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.until(b"data: first\n\n")
            server.stop(60)
            await anyio.sleep(0.05)
            go.set()  # the task that writes is awake, and has not run
            server.stop(0)
            rest = await peer.until(b"0\r\n\r\n")
            assert b'"code":"shutting_down"' in rest
            assert await peer.ended()


async def test_n010_a_request_past_the_deadline_is_refused() -> None:
    stuck = Stuck()
    server = Server(stuck, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await soon(stuck.entered)
            server.stop(0)
            answer = await peer.answer()
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            assert (answer.header("retry-after"), answer.header("connection")) == ("15", "close")
            assert stuck.left.is_set()


async def test_a_plain_stream_past_the_deadline_is_cut() -> None:
    async def plain(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            await anyio.sleep_forever()

        return StreamingResponse(parts())

    server = Server(plain, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.until(b"half\r\n")
            server.stop(0)
            assert await peer.ended()


async def test_idle_connections_may_ask_once_more() -> None:
    stuck = Stuck()

    async def handler(request: Request) -> Response:
        return await (stuck if request.path == "/stuck" else echo)(request)

    server = Server(handler, ServerConfig(linger_s=0.3, close_idle_on_drain=False))
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as busy, connected(server) as idle:
            await idle.send(GET)
            await idle.answer()
            await busy.send(GET.replace(b"/ ", b"/stuck "))
            await soon(stuck.entered)
            server.stop()
            await anyio.sleep(0.05)
            await idle.send(GET)
            answer = await idle.answer()
            assert (answer.status, answer.header("connection")) == (200, "close")
            assert await idle.ended()
            server.stop(0)  # a second call shortens the wait
            assert (await busy.answer()).status == 503


async def test_a_cancelled_server_leaves_at_once() -> None:
    stuck = Stuck()
    server = Server(stuck, QUICK)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with connected(server) as peer:
            await peer.send(GET)
            await soon(stuck.entered)
            tasks.cancel_scope.cancel()
    assert stuck.left.is_set()


async def test_a_host_without_an_address_is_reported() -> None:
    server = Server(echo, ServerConfig(host="no.such.host.invalid", port=1))
    with pytest.raises(BindError) as caught:
        await server.bind()
    assert str(caught.value).startswith("cannot bind no.such.host.invalid:1: ")
    assert "unknown error" not in str(caught.value)


async def test_a_taken_port_is_reported() -> None:
    async with serving(echo) as first:
        second = Server(echo, ServerConfig(port=first.port))
        message = f"cannot bind 127.0.0.1:{first.port}: address already in use"
        with pytest.raises(BindError) as caught:
            await second.serve()
        assert str(caught.value) == message
        with pytest.raises(BindError):
            await second.ready()
        with pytest.raises(BindError):
            async with serving(echo, ServerConfig(port=first.port)):
                raise AssertionError


async def test_the_blocks_own_error_comes_out_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with serving(echo):
            raise ZeroDivisionError
