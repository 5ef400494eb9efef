"""A relay of server and client: the same bytes on the other side, as soon as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helexa.http import (
    Client,
    ClientConfig,
    Request,
    Response,
    Server,
    ServerConfig,
    relay,
    serving,
)
from helexa.http.framing import chunk
from tests.http.upstreams import OK, Act, Mock, answering, answering_once, read_request, upstream
from tests.http.wire import GET, Peer, ask, connected, post, reset, settle, soon

pytestmark = pytest.mark.anyio
HASTY = ClientConfig(first_byte_timeout_s=0.2, idle_timeout_s=0.2)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def relaying(
    act: Act, client: ClientConfig | None = None, server: ServerConfig | None = None
) -> AsyncIterator[tuple[Server, Mock]]:
    async with upstream(act) as mock, Client(client) as behind:

        async def handler(request: Request) -> Response:
            return await relay(request, behind, mock.url + request.path)

        async with serving(handler, server, drain_s=0) as front:
            yield front, mock


async def test_g085_json() -> None:
    body = b'{"odd" :  1e400, "odd":"\\u00e9", "n": 123456789012345678901234567890}'
    seen: list[bytes] = []

    async def act(mock: Mock, peer: Peer) -> None:
        while True:
            seen.append(await read_request(mock, peer))
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with relaying(act) as (server, mock), connected(server) as peer:
        for _ in range(3):
            await peer.send(post(body))
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, body)
            assert answer.header("content-length") == str(len(body))
        assert seen == [body] * 3
        assert mock.connections == 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=8), st.booleans())
async def test_g086_any_bytes_both_ways(parts: list[bytes], chunked: bool) -> None:
    whole = b"".join(parts)

    async def act(mock: Mock, peer: Peer) -> None:
        assert await read_request(mock, peer) == whole
        if chunked:
            await peer.send(STREAM)
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(whole))
        for part in parts:
            await peer.send(chunk(part) if chunked else part)
        if chunked:
            await peer.send(b"0\r\n\r\n")

    async with relaying(act) as (server, _):
        answer = await ask(server, post(whole))
        assert answer.body == whole
        assert (answer.header("content-length") is None) == chunked


async def test_g088_request_headers() -> None:
    async with relaying(answering()) as (server, mock):
        fields = ("x-a: 1", "x-a: 2", "accept-encoding: gzip", "connection: x-b, Close", "x-b: 1")
        await ask(server, post(b"{}", *fields, "te: trailers", "x-request-id: abc"))
        lines = mock.heads[0].split(b"\r\n")[1:-2]
        kept = [line for line in lines if not line.startswith((b"host", b"content-length"))]
        assert kept == [
            b"content-type: application/json",
            b"x-a: 1",
            b"x-a: 2",
            b"accept-encoding: identity",
            b"x-request-id: abc",
        ]
        assert [line for line in lines if line.startswith(b"host")] == [
            b"host: " + mock.url.removeprefix("http://").encode()
        ]


async def test_g089_response_headers() -> None:
    wire = (
        b"HTTP/1.1 429 Too Many Requests\r\nset-cookie: a\r\nRetry-After: 7\r\nset-cookie: b\r\n"
        b"connection: keep-alive ,\tx-c\r\nx-c: 1\r\nkeep-alive: 5\r\ncontent-length: 2\r\n"
        b"date: then\r\n\r\nno"
    )
    async with relaying(answering(wire)) as (server, _):
        answer = await ask(server, GET)
        assert (answer.status, answer.body) == (429, b"no")
        assert [field for field in answer.headers if field[0] != "x-request-id"] == [
            ("set-cookie", "a"),
            ("retry-after", "7"),
            ("set-cookie", "b"),
            ("content-length", "2"),
            ("date", "then"),
        ]


async def test_g090_the_first_chunk_does_not_wait_for_the_second() -> None:
    release = anyio.Event()

    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        await peer.send(STREAM)
        await peer.send(chunk(b"data: one\n\n"))
        await release.wait()
        await peer.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    async with relaying(act) as (server, _), connected(server) as peer:
        await peer.send(GET)
        with anyio.fail_after(2):
            await peer.until(b"data: one\n\n\r\n")
        release.set()
        assert await peer.until(b"0\r\n\r\n") == b"b\r\ndata: two\n\n\r\n0\r\n\r\n"


async def test_the_head_does_not_wait_for_the_body() -> None:
    act = answering(STREAM, pause_s=5, at=len(STREAM))
    async with relaying(act) as (server, _), connected(server) as peer:
        await peer.send(GET)
        with anyio.fail_after(2):
            assert b"text/event-stream" in await peer.until(b"\r\n\r\n")


async def test_g094_a_stalled_upstream_is_no_end() -> None:
    wire = STREAM + chunk(b"one")
    async with relaying(answering(wire, pause_s=9, at=len(wire)), HASTY) as (server, mock):
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.until(b"\r\n\r\n")
            assert await peer.until(b"\0") == chunk(b"one")
        await settle(lambda: server.connections == 0)
        assert mock.connections == 1


@pytest.mark.parametrize("cut", [STREAM + chunk(b"one"), STREAM + b"9\r\none", OK[:-1]])
async def test_nor_is_one_that_breaks(cut: bytes) -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        await peer.send(cut)
        await anyio.sleep(0.05)
        reset(peer.stream)  # type: ignore[arg-type]  # it is a socket

    async with relaying(act) as (server, _), connected(server) as peer:
        await peer.send(GET)
        await peer.until(b"\r\n\r\n")
        assert not (await peer.until(b"\0")).endswith(b"0\r\n\r\n")


async def test_g096_timeouts_and_refusals_before_the_head() -> None:
    async with relaying(answering(pause_s=5), HASTY) as (server, _):
        answer = await ask(server, GET)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert answer.error["message"] == "upstream did not answer in time"
    for wire, code in ((b"nonsense\r\n\r\n", "malformed_response"), (b"", "connection_error")):
        async with relaying(answering_once(wire)) as (server, _):
            answer = await ask(server, GET)
            assert (answer.status, answer.error["code"]) == (502, f"upstream_{code}")


async def test_g097_a_client_that_leaves_closes_the_upstream() -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        await peer.send(STREAM)
        while True:
            await peer.send(chunk(b"data: x\n\n"))
            await anyio.sleep(0.02)

    async with relaying(act) as (server, mock):
        async with connected(server) as peer:
            await peer.send(GET)
            await peer.until(b"data: x\n\n")
        await soon(mock.left)


async def test_g097_also_before_the_head() -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        await peer.stream.receive()

    async with relaying(act) as (server, mock):
        async with connected(server) as peer:
            await peer.send(GET)
            await settle(lambda: len(mock.heads) == 1)
        await soon(mock.left)


async def test_g098_an_unread_answer_is_not_read_ahead() -> None:
    sent = 0

    async def act(mock: Mock, peer: Peer) -> None:
        nonlocal sent
        await read_request(mock, peer)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            await peer.send(b"x" * 100_000)
            sent += 100_000

    config = ServerConfig(write_stall_s=0.5)
    async with relaying(act, None, config) as (server, mock), connected(server) as peer:
        await peer.send(GET)
        with anyio.fail_after(10):
            await mock.left.wait()
        assert sent < 50_000_000
        await settle(lambda: server.connections == 0)


async def test_a_head_request_is_relayed_as_one() -> None:
    wire = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"
    async with relaying(answering(wire)) as (server, mock), connected(server) as peer:
        for _ in range(2):
            await peer.send(b"HEAD /x HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await peer.answer(head_only=True)
            assert answer.header("content-length") == "500"
        assert mock.connections == 1
