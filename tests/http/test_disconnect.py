"""A client that leaves, in each phase: its handler is cancelled within a fraction of a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream

from helexa.http import (
    Ending,
    EventStream,
    Request,
    Response,
    StreamingResponse,
    event,
    serving,
)
from tests.http.wire import GET, Peer, Stuck, connected, echo, post, reset, settle, soon

pytestmark = pytest.mark.anyio


async def close(stream: SocketStream) -> None:
    await stream.aclose()


async def half_close(stream: SocketStream) -> None:
    await stream.send_eof()


async def break_off(stream: SocketStream) -> None:
    reset(stream)
    await stream.aclose()


WAYS = [close, half_close, break_off]
Leave = Callable[[SocketStream], Awaitable[None]]


def stream_of(peer: Peer) -> SocketStream:
    assert isinstance(peer.stream, SocketStream)
    return peer.stream


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("pipelined", [b"", GET, GET * 3 + b"GET /half"])
async def test_n026_while_the_handler_works(leave: Leave, pipelined: bytes) -> None:
    stuck = Stuck()
    endings: list[Ending] = []
    async with serving(stuck, observe=lambda _, ending: endings.append(ending)) as server:
        async with connected(server) as peer:
            await peer.send(GET + pipelined)
            await soon(stuck.entered)
            await leave(stream_of(peer))
            await soon(stuck.left)
        await settle(lambda: server.connections == 0)
    assert [ending.outcome for ending in endings] == ["gone"]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("kind", [StreamingResponse, EventStream])
async def test_n026_while_a_stream_waits_for_its_source(
    leave: Leave, kind: type[StreamingResponse]
) -> None:
    left = anyio.Event()

    async def handler(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                yield event("one")
                await anyio.sleep_forever()
            finally:
                left.set()

        return kind(parts())

    async with serving(handler) as server, connected(server) as peer:
        await peer.send(GET)
        await peer.until(b"data: one\n\n")
        await leave(stream_of(peer))
        await soon(left)


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("kind", [StreamingResponse, EventStream])
async def test_n026_while_a_stream_is_written(leave: Leave, kind: type[StreamingResponse]) -> None:
    left = anyio.Event()

    async def handler(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 10_000
                    await anyio.lowlevel.checkpoint()
            finally:
                left.set()

        return kind(parts())

    async with serving(handler) as server, connected(server) as peer:
        await peer.send(GET)
        await peer.until(b"xxx")
        await anyio.sleep(0.1)  # until nothing more fits, in most runs
        await leave(stream_of(peer))
        await soon(left)


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("begun", [b"5", b"5\r", b"5;x", b"2\r\nab\r", b"0\r\n", b"0\r\nx: y"])
async def test_inside_of_what_frames_a_body(leave: Leave, begun: bytes) -> None:
    """There is something left to read, and nothing more will come of it: nobody waits for that."""

    async def read(request: Request) -> Response:
        return Response(await request.body())

    async with serving(read) as server:
        async with connected(server) as peer:
            head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            await peer.send(head + begun)
            await settle(lambda: server.running == 1)
            await leave(stream_of(peer))
        await settle(lambda: server.connections == 0)
        async with connected(server) as peer:
            await peer.send(post(b"ok"))
            assert (await peer.answer()).body == b"ok"


@pytest.mark.parametrize("leave", WAYS)
async def test_while_the_body_is_read(leave: Leave) -> None:
    entered, left = anyio.Event(), anyio.Event()

    async def handler(request: Request) -> Response:
        entered.set()
        try:
            return Response(await request.body())
        finally:
            left.set()

    async with serving(handler) as server, connected(server) as peer:
        await peer.send(post(b"x" * 100)[:-1])
        await soon(entered)
        await leave(stream_of(peer))
        await soon(left)


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET])
async def test_between_requests(leave: Leave, sent: bytes) -> None:
    async with serving(echo) as server:
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.answer()
            if sent:
                await peer.send(sent)
            await leave(stream_of(peer))
            await settle(lambda: server.connections == 0)
        async with connected(server) as peer:
            await peer.send(GET)
            assert (await peer.answer()).status == 200


async def test_what_is_held_is_released() -> None:
    freed, entered = anyio.Event(), anyio.Event()

    class Seat:
        async def __aenter__(self) -> None:
            entered.set()

        async def __aexit__(self, *exc_info: object) -> None:
            freed.set()

    async def handler(request: Request) -> Response:
        await request.hold(Seat())
        await anyio.sleep_forever()
        raise AssertionError

    async with serving(handler) as server:
        async with connected(server) as peer:
            await peer.send(GET)
            await soon(entered)
        await soon(freed)


async def test_who_leaves_with_the_whole_answer_is_no_client_that_left() -> None:
    """What a request holds may take a while to be released, which the client need not await."""
    endings: list[Ending] = []
    entered, release = anyio.Event(), anyio.Event()

    class Bill:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc_info: object) -> None:
            entered.set()
            await release.wait()

    async def handler(request: Request) -> Response:
        await request.hold(Bill())
        return Response("all of it")

    async with serving(handler, observe=lambda _, ending: endings.append(ending)) as server:
        async with connected(server) as peer:
            await peer.send(GET)
            assert (await peer.answer()).body == b"all of it"
            await soon(entered)
        await anyio.sleep(0.02)
        release.set()
        await settle(lambda: server.connections == 0)
    assert [ending.outcome for ending in endings] == ["done"]


async def test_a_handler_can_shield_what_must_go_on() -> None:
    """A load goes on when its caller has left."""
    entered, release, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def load(_: Request) -> Response:
        with anyio.CancelScope(shield=True):
            entered.set()
            await release.wait()
            done.set()
        return Response()

    async with serving(load) as server:
        async with connected(server) as peer:
            await peer.send(GET)
            await soon(entered)
        await anyio.sleep(0.05)
        release.set()
        await soon(done)


async def test_n027_a_slow_reader_slows_nobody() -> None:
    """One client reads nothing of an endless stream; another one's stream flows on."""

    async def handler(request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            n = 0
            while request.path == "/endless" or n < 200:
                n += 1
                yield event({"n": n, "filler": "x" * 1000})
                await anyio.lowlevel.checkpoint()

        return EventStream(events())

    async with serving(handler, drain_s=0) as server, connected(server) as slow:
        await slow.send(GET.replace(b"/ ", b"/endless "))
        await anyio.sleep(0.1)
        async with connected(server) as quick:
            with anyio.fail_after(5):
                await quick.send(GET)
                assert (await quick.answer()).body.count(b"data: ") == 200
