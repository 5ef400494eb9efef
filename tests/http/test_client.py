"""The relay's client: its pool, its timeouts, and what it makes of bad answers."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from helexa.errors import InvalidRequest
from helexa.http import Client, ClientConfig
from helexa.http.faults import (
    UpstreamError,
    UpstreamMalformed,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.http.upstreams import (
    OK,
    Mock,
    answering,
    answering_once,
    read_request,
    upstream,
)
from tests.http.wire import Peer, settle, soon

pytestmark = pytest.mark.anyio
HASTY = ClientConfig(
    connect_timeout_s=0.3, first_byte_timeout_s=0.2, idle_timeout_s=0.2, write_timeout_s=0.3
)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


async def fetch(client: Client, url: str, method: str = "GET", body: bytes = b"") -> bytes:
    async with client.request(method, url, {}, body) as answer:
        return await answer.read(1 << 20)


async def test_connections_are_kept_and_used_again() -> None:
    async with upstream(answering()) as mock, Client() as client:
        for _ in range(3):
            assert await fetch(client, mock.url + "/a%2Fb?c=d") == b"ok"
        assert (mock.connections, client.idle) == (1, 1)
        assert mock.heads[0].startswith(b"GET /a%2Fb?c=d HTTP/1.1\r\nhost: 127.0.0.1:")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(fetch, client, mock.url)
        assert mock.connections <= 3
        assert client.idle == mock.connections


async def test_what_is_sent() -> None:
    async with upstream(answering()) as mock, Client() as client:
        headers = [("X-A", "1"), ("x-a", "2"), ("host", "elsewhere"), ("connection", "close")]
        async with client.request("POST", mock.url, headers, b"body"):
            pass
        assert mock.heads == [
            b"POST / HTTP/1.1\r\nx-a: 1\r\nx-a: 2\r\nhost: elsewhere\r\ncontent-length: 4\r\n\r\n"
        ]


@pytest.mark.parametrize(
    ("wire", "content", "kept"),
    [
        (OK, b"ok", True),
        (CHUNKED, b"hello", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\n" + OK, b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok", False),
        (OK + b"stray", b"ok", False),
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
async def test_answers(wire: bytes, content: bytes, kept: bool, piecewise: bool) -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        while True:
            await read_request(mock, peer)
            for at in range(len(wire)) if piecewise else ():
                await peer.send(wire[at : at + 1])
                await anyio.lowlevel.checkpoint()
            if not piecewise:
                await peer.send(wire)

    async with upstream(act) as mock, Client() as client:
        assert await fetch(client, mock.url) == content
        await anyio.sleep(0.02)
        await fetch(client, mock.url)
        assert mock.connections == (1 if kept else 2)


async def test_an_answer_may_last_until_the_connection_ends() -> None:
    wire = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    async with upstream(answering_once(wire)) as mock, Client() as client:
        assert await fetch(client, mock.url) == b"all of it"
        assert client.idle == 0


async def test_a_pooled_connection_that_was_closed_is_not_used() -> None:
    async with upstream(answering_once(OK)) as mock, Client() as client:
        for n in range(3):
            assert await fetch(client, mock.url, "POST", b"x") == b"ok"
            assert mock.connections == n + 1
            await anyio.sleep(0.02)


async def test_one_that_closes_without_an_answer_is_replaced_once() -> None:
    """The race that no look beforehand excludes: closed while the request was on its way."""

    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        if mock.connections != 3:
            await peer.send(OK)
            await read_request(mock, peer)  # and close, without an answer

    async with upstream(act) as mock, Client() as client:
        assert await fetch(client, mock.url) == b"ok"
        assert await fetch(client, mock.url) == b"ok"
        assert mock.connections == 2
        with pytest.raises(UpstreamError):  # the third connection is fresh: no further attempt
            await fetch(client, mock.url)
        assert mock.connections == 3


async def test_a_fresh_connection_is_never_retried() -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)

    async with upstream(act) as mock, Client() as client:
        with pytest.raises(UpstreamError) as caught:
            await fetch(client, mock.url)
        assert (caught.value.status, caught.value.code) == (502, "upstream_connection_error")
        assert mock.connections == 1


@pytest.mark.parametrize("cut", [b"HTTP/1.1 200", OK[:-1], CHUNKED[:-5], CHUNKED[:-12]])
async def test_an_answer_that_breaks_off_is_an_error(cut: bytes) -> None:
    async with upstream(answering_once(cut)) as mock, Client() as client:
        with pytest.raises(UpstreamError, match="upstream request failed") as caught:
            await fetch(client, mock.url)
        assert "ended inside" in caught.value.detail
        assert (mock.connections, client.idle) == (1, 0)


@pytest.mark.parametrize(
    "wire",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 103 Hints\r\n\r\n" * 17 + OK,
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 66_000,
        CHUNKED.replace(b"5\r\n", b"z\r\n"),
    ],
)
async def test_what_is_no_answer_is_an_error(wire: bytes) -> None:
    async with upstream(answering(wire)) as mock, Client() as client:
        with pytest.raises(UpstreamMalformed) as caught:
            await fetch(client, mock.url)
        assert (caught.value.status, caught.value.code) == (502, "upstream_malformed_response")
        assert client.idle == 0


async def test_a_slow_head() -> None:
    async with upstream(answering(pause_s=4)) as mock, Client(HASTY) as client:
        with anyio.fail_after(3), pytest.raises(UpstreamTimeout) as caught:
            await fetch(client, mock.url)
        assert (caught.value.status, caught.value.code) == (504, "upstream_timeout")
        async with client.request("GET", mock.url, first_byte_timeout_s=20) as answer:
            assert answer.status == 200


async def test_a_silent_body() -> None:
    async with upstream(answering(OK, pause_s=9, at=len(OK) - 1)) as mock, Client(HASTY) as client:
        with anyio.fail_after(3), pytest.raises(UpstreamTimeout):
            await fetch(client, mock.url)


async def test_a_server_that_takes_nothing() -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        await anyio.sleep_forever()

    async with upstream(act) as mock, Client(HASTY) as client:
        with anyio.fail_after(5), pytest.raises(UpstreamTimeout):
            await fetch(client, mock.url, "POST", b"x" * 20_000_000)


async def test_an_early_answer_to_a_large_body_is_read() -> None:
    async def act(mock: Mock, peer: Peer) -> None:
        mock.heads.append(await peer.until(b"\r\n\r\n"))
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        while True:  # lingers, as our own server does
            await peer.stream.receive()

    async with (
        upstream(act) as mock,
        Client() as client,
        client.request("POST", mock.url, {}, b"x" * 5_000_000) as answer,
    ):
        assert answer.status == 413


async def test_nobody_there() -> None:
    async with upstream(answering()) as mock:
        url = mock.url
    async with Client(HASTY) as client:
        for nowhere in (url, "http://127.0.0.1:1", "http://name.invalid./"):
            with pytest.raises(UpstreamUnreachable) as caught:
                await fetch(client, nowhere)
            assert caught.value.status == 502


@pytest.mark.parametrize("url", ["", "/path", "ftp://x/", "http://", "http://x:port/", "x"])
async def test_what_is_no_url(url: str) -> None:
    async with Client() as client:
        with pytest.raises(InvalidRequest):
            client.request("GET", url)


async def test_leaving_early_closes_the_connection() -> None:
    """That is how the server behind learns that nobody reads any more."""

    async def act(mock: Mock, peer: Peer) -> None:
        await read_request(mock, peer)
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await peer.stream.receive()

    async with upstream(act) as mock, Client() as client:
        async with client.request("GET", mock.url) as answer:
            assert await anext(answer) == b"hello"
        await soon(mock.left)
        assert client.idle == 0


async def test_cancellation_closes_the_connection() -> None:
    async with upstream(answering(pause_s=30)) as mock, Client() as client:
        with anyio.move_on_after(0.1):
            await fetch(client, mock.url)
        await settle(lambda: mock.connections == 1)
        assert client.idle == 0


async def test_idle_connections_are_let_go() -> None:
    async with upstream(answering()) as mock, Client(ClientConfig(keep_idle_s=0.2)) as client:
        await fetch(client, mock.url)
        assert client.idle == 1
        await soon(mock.left)
        assert client.idle == 0


async def test_no_more_idle_ones_than_allowed() -> None:
    async with (
        upstream(answering(pause_s=0.05)) as mock,
        Client(ClientConfig(max_idle_per_origin=2)) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(5):
            tasks.start_soon(fetch, client, mock.url)
        await settle(lambda: len(mock.heads) == 5)
        await settle(lambda: client.idle == 2)


async def test_closing_the_client_closes_its_connections() -> None:
    async with upstream(answering()) as mock:
        async with Client() as client:
            await fetch(client, mock.url)
        await soon(mock.left)


async def test_a_client_that_is_cancelled_closes_all_its_connections() -> None:
    async with upstream(answering(pause_s=0.05)) as mock:
        with anyio.CancelScope() as scope:
            async with Client() as client:
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(fetch, client, mock.url)
                assert client.idle == 3
                scope.cancel()
        assert client.idle == 0


async def test_a_body_over_the_limit_is_not_read() -> None:
    async with upstream(answering()) as mock, Client() as client:
        with pytest.raises(UpstreamMalformed, match="malformed upstream response"):
            async with client.request("GET", mock.url) as answer:
                await answer.read(1)
