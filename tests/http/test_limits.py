"""Limits and timeouts, each at its edge."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import anyio
import pytest

from helexa.errors import InvalidRequest
from helexa.http import (
    Ending,
    Request,
    Response,
    ServerConfig,
    StreamingResponse,
    json_response,
    serving,
)
from helexa.http.framing import chunk
from tests.http.wire import GET, Stuck, ask, connected, echo, post, settle, soon

pytestmark = pytest.mark.anyio
SMALL = ServerConfig(max_body_bytes=1000)
HASTY = ServerConfig(
    header_timeout_s=0.2, body_timeout_s=0.2, idle_timeout_s=0.4, write_stall_s=0.3, linger_s=0.2
)
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


async def size(request: Request) -> Response:
    return json_response(len(await request.body()))


@pytest.mark.parametrize("name", ["max_body_bytes", "max_connections", "write_stall_s"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} is 0; it must be above 0"):
        dataclasses.replace(ServerConfig(), **{name: 0})


async def test_n021_a_body_at_the_limit_is_taken() -> None:
    async with serving(size, SMALL) as server:
        assert (await ask(server, post(b"x" * 1000))).body == b"1000"
        wire = CHUNKED + chunk(b"x" * 600) + chunk(b"x" * 400) + b"0\r\n\r\n"
        assert (await ask(server, wire)).body == b"1000"


async def test_n021_a_byte_more_is_not() -> None:
    async with serving(size, SMALL) as server:
        declared = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n"  # nothing sent
        for wire in (declared, CHUNKED + chunk(b"x" * 600) + chunk(b"x" * 401)):
            async with connected(server) as peer:
                await peer.send(wire)
                answer = await peer.answer()
                assert (answer.status, answer.error["code"]) == (413, "request_too_large")
                assert answer.error["max_bytes"] == 1000
                assert answer.header("connection") == "close"
                assert await peer.ended()


async def test_n021_a_refusal_arrives_although_the_body_is_still_coming() -> None:
    async with serving(size, SMALL) as server, connected(server) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n")
        for _ in range(30):
            await peer.send(b"x" * 100_000)
        assert (await peer.answer()).status == 413


async def test_n021_heads() -> None:
    async with serving(size) as server:
        for field in (b"x: " + b"a" * 65 * 1024, b"x: 1\r\n" * 128 + b"y: 1"):
            answer = await ask(server, b"GET / HTTP/1.1\r\nhost: x\r\n" + field + b"\r\n\r\n")
            assert (answer.status, answer.error["code"]) == (431, "request_headers_too_large")
        answer = await ask(server, b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (answer.status, answer.error["code"]) == (414, "uri_too_long")


async def test_n021_an_endless_head_is_refused_before_it_ends() -> None:
    async with serving(size) as server, connected(server) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 66 * 1024)
        assert (await peer.answer()).status == 431
        assert await peer.ended()


@pytest.mark.parametrize("sent", [b"G", GET[:-2], GET[:-1]])
async def test_n021_a_stalled_head(sent: bytes) -> None:
    async with serving(size, HASTY) as server, connected(server) as peer:
        await peer.send(sent)
        answer = await peer.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert await peer.ended()


async def test_a_head_that_trickles_is_not_given_more_time() -> None:
    async with serving(size, HASTY) as server, connected(server) as peer:

        async def trickle() -> None:
            with suppress(anyio.BrokenResourceError):
                while True:
                    await peer.send(b"a")
                    await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            assert (await peer.answer()).status == 408
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("sent", [post(b"xxxx")[:-1], CHUNKED + b"4\r\nxxx"])
async def test_n021_a_stalled_body(sent: bytes) -> None:
    async with serving(size, HASTY) as server, connected(server) as peer:
        await peer.send(sent)
        answer = await peer.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert await peer.ended()


async def test_a_slow_body_is_taken() -> None:
    """Longer than the timeout in all, but never silent for that long."""
    now, arrived = 0.0, 0

    async def count(request: Request) -> Response:
        nonlocal arrived
        async for part in request.stream():
            arrived += len(part)
        return json_response(arrived)

    async with serving(count, clock=lambda: now) as server, connected(server) as peer:
        await peer.send(post(b"x" * 4)[:-4])
        for n in range(4):
            await anyio.sleep(0.3)  # the deadlines are looked at, more than once
            now += 50  # of 60
            await peer.send(b"x")
            await settle(lambda n=n: arrived == n + 1)  # type: ignore[misc]  # mypy infers no default of a lambda
        assert (await peer.answer()).body == b"4"


async def test_and_a_silent_one_is_not() -> None:
    now = 0.0
    async with serving(size, clock=lambda: now) as server, connected(server) as peer:
        await peer.send(post(b"xx")[:-1])
        await anyio.sleep(0.1)
        now += 61
        assert (await peer.answer()).status == 408


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with serving(size, HASTY) as server, connected(server) as fresh:
        async with connected(server) as used:
            await used.send(GET)
            assert (await used.answer()).status == 200
            assert await used.ended()
        assert await fresh.ended()


async def test_a_handler_may_take_longer_than_any_timeout() -> None:
    async def patient(_: Request) -> Response:
        await anyio.sleep(0.6)
        return Response("done")

    async with serving(patient, HASTY) as server:
        assert (await ask(server, GET)).body == b"done"


async def test_a_client_that_reads_nothing_is_dropped() -> None:
    left = anyio.Event()

    async def flood(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 100_000
            finally:
                left.set()

        return Response(b"x" * 50_000_000) if request.path == "/" else StreamingResponse(parts())

    endings: list[Ending] = []

    def observe(_: Request, ending: Ending) -> None:
        endings.append(ending)

    async with serving(flood, HASTY, observe=observe) as server:
        for wire in (GET, GET.replace(b"/ ", b"/stream ")):
            async with connected(server) as peer:
                await peer.send(wire)
                await settle(lambda: server.connections == 0)
                with pytest.raises(anyio.BrokenResourceError):
                    while True:
                        await peer.stream.receive()
        await soon(left)
    assert [ending.outcome for ending in endings] == ["stalled", "stalled"]


async def test_a_slow_reader_that_goes_on_is_served() -> None:
    async def large(_: Request) -> Response:
        return Response(b"x" * 6_000_000)

    config = ServerConfig(write_stall_s=4)
    async with serving(large, config) as server, connected(server) as peer:
        await peer.send(GET)
        await peer.until(b"\r\n\r\n")
        got = len(peer.buffer)
        while got < 6_000_000:
            got += len(await peer.stream.receive(150_000))
            await anyio.sleep(0.05)
        assert got == 6_000_000


async def test_one_connection_too_many_is_refused() -> None:
    stuck = Stuck()
    async with serving(stuck, ServerConfig(max_connections=2), drain_s=0) as server:
        async with connected(server) as first, connected(server) as _second:
            await first.send(GET)
            await soon(stuck.entered)
            await settle(lambda: server.connections == 2)
            async with connected(server) as third:
                await third.send(GET)
                answer = await third.answer()
                assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
                assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
                assert await third.ended()
        await settle(lambda: server.connections == 0)
        async with connected(server) as fourth:
            await settle(lambda: server.connections == 1)
            assert fourth


async def test_or_waits_for_its_turn() -> None:
    config = ServerConfig(max_connections=2, when_full="wait")
    async with serving(echo, config) as server, AsyncExitStack() as stack:
        first, _ = [await stack.enter_async_context(connected(server)) for _ in range(2)]
        await settle(lambda: server.connections == 2)
        third = await stack.enter_async_context(connected(server))
        await third.send(GET)
        await anyio.sleep(0.1)
        assert server.connections == 2
        await first.stream.aclose()
        assert (await third.answer()).status == 200


async def test_n022_a_large_body() -> None:
    async def length(request: Request) -> Response:
        return json_response(len((await request.json())["ignored"]))

    body = b'{"ignored":"' + b"x" * (20 << 20) + b'"}'
    async with serving(length) as server:
        assert (await ask(server, post(body))).body == b"%d" % (20 << 20)


@pytest.mark.parametrize("at_once", [True, False])
async def test_who_sends_on_and_on_while_a_request_runs_has_to_wait(at_once: bool) -> None:
    stuck = Stuck()
    piece, taken = b"x" * 2**20, 0
    async with serving(stuck, drain_s=0) as server, connected(server) as peer:
        await peer.send(GET + piece if at_once else GET)
        await soon(stuck.entered)
        with anyio.move_on_after(1):
            while taken < 64:
                await peer.send(piece)
                taken += 1
    assert taken < 32  # the buffers of two sockets hold a few


async def test_what_is_refused_before_there_is_a_request_is_told() -> None:
    refused: list[int] = []
    endings: list[Ending] = []
    async with serving(
        echo,
        HASTY,
        observe=lambda _, ending: endings.append(ending),
        refused=lambda error: refused.append(error.status),
    ) as server:
        assert (await ask(server, b"no request\r\n\r\n")).status == 400
        async with connected(server) as peer:
            await peer.send(b"GET / HTTP/1.1\r\n")
            assert (await peer.answer()).status == 408
    assert (refused, endings) == ([400, 408], [])
