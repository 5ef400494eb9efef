"""Whatever is sent: an answer of 4xx or a closed connection, and the next client is served."""

from __future__ import annotations

import resource

import anyio
import pytest
from anyio.abc import SocketStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helexa.http import Router, ServerConfig, serving
from helexa.http.framing import chunk
from tests.http.test_heads import BARE_LINE_FEEDS, SMUGGLING
from tests.http.wire import GET, Peer, ask, connected, echo, post, reset, settle

pytestmark = pytest.mark.anyio
HASTY = ServerConfig(header_timeout_s=0.3, body_timeout_s=0.3, idle_timeout_s=0.3, linger_s=0.1)
BAD_CHUNKS = {
    "bad_size": b"zz\r\nab\r\n0\r\n\r\n",
    "negative_size": b"-1\r\n\r\n",
    "bare_lf": b"2\nab\n0\n\n",
    "short": b"2\r\nabX\r\n0\r\n\r\n",
    "huge": b"FFFFFFFFFFFFFFFFFFFF\r\n",
    "over_the_limit": b"FFFFFFFFFFFFFFF\r\n" + b"x" * 70_000,
}
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"

routes = Router()
routes.add("GET", "/", echo)
routes.add("POST", "/", echo)


def mangled() -> st.SearchStrategy[bytes]:
    """Valid requests with some bytes exchanged, dropped or doubled; pieces of them; noise."""
    whole = st.sampled_from(
        [
            GET,
            post(b'{"a":1}'),
            CHUNKED + chunk(b"abc") + b"0\r\n\r\n",
            *SMUGGLING.values(),
            *BARE_LINE_FEEDS.values(),
        ]
    )
    noise = st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\n", b"\0", b":", b" ", b"\r\n "])

    def exchange(wire: bytes, at: int, length: int, new: bytes) -> bytes:
        at %= len(wire)
        return wire[:at] + new + wire[at + length :]

    one = st.builds(exchange, whole, st.integers(0, 400), st.integers(0, 5), noise)
    return st.lists(one | whole | noise, min_size=1, max_size=4).map(b"".join)


async def all_answers(peer: Peer) -> list[int]:
    """The status of every answer until the connection ends."""
    statuses = []
    while head := await peer.until(b"\r\n\r\n"):
        assert head.startswith(b"HTTP/1.1 "), head
        statuses.append(int(head[9:12]))
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        while len(peer.buffer) < length:
            peer.buffer += await peer.stream.receive()
        del peer.buffer[:length]
    return statuses


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(mangled() | st.binary(max_size=300), min_size=1, max_size=4), st.booleans())
async def test_any_bytes(wires: list[bytes], ends: bool) -> None:
    """Answers are 200 (it was a request after all) or 4xx; then the connection ends."""
    async with serving(routes, HASTY) as server:

        async def fire(wire: bytes) -> None:
            async with connected(server) as peer:
                try:
                    await peer.send(wire)
                    if ends:
                        assert isinstance(peer.stream, SocketStream)
                        await peer.stream.send_eof()
                    statuses = await all_answers(peer)
                except anyio.BrokenResourceError:
                    return
            assert all(status in (100, 200) or 400 <= status < 500 for status in statuses)

        async with anyio.create_task_group() as tasks:
            for wire in wires:
                tasks.start_soon(fire, wire)
        assert (await ask(server, GET)).status == 200


@pytest.mark.parametrize(
    "head", (SMUGGLING | BARE_LINE_FEEDS).values(), ids=SMUGGLING | BARE_LINE_FEEDS
)
async def test_a_smuggled_request_is_never_answered(head: bytes) -> None:
    async with serving(routes) as server, connected(server) as peer:
        await peer.send(head + b"0\r\n\r\n" + HIDDEN)
        assert await all_answers(peer) == [400]
        assert (await ask(server, GET)).status == 200


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_nor_one_behind_bad_chunks(body: bytes) -> None:
    async with serving(routes, ServerConfig(max_body_bytes=60_000)) as server:
        async with connected(server) as peer:
            await peer.send(CHUNKED + body + HIDDEN)
            (status,) = await all_answers(peer)
            assert status in (400, 413)
        assert (await ask(server, GET)).status == 200


async def test_a_tls_greeting_is_refused_at_once() -> None:
    async with serving(routes) as server:
        assert (await ask(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")).status == 400


async def test_empty_lines_before_a_request_are_forgiven() -> None:
    async with serving(routes) as server, connected(server) as peer:
        for piece in (b"\r", b"\n\r\n", GET, b"\r\n", GET):
            await peer.send(piece)
            await anyio.sleep(0.01)
        assert [(await peer.answer()).status for _ in range(2)] == [200, 200]


async def test_resets_in_quick_succession() -> None:
    async with serving(routes) as server:
        for n in range(60):
            async with connected(server) as peer:
                await peer.send((GET + post(b"x" * 50))[: n * 3])
                assert isinstance(peer.stream, SocketStream)
                reset(peer.stream)
        assert (await ask(server, GET)).status == 200
        await settle(lambda: server.connections == 0)


async def test_two_thousand_idle_connections() -> None:
    """They cost no request anything, and all of them are let go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 5000:
        pytest.skip(f"needs 5000 open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5000), hard))
    streams: list[SocketStream] = []
    try:
        async with serving(routes, ServerConfig(max_connections=3000)) as server:
            while len(streams) < 2000:
                streams.append(await anyio.connect_tcp("127.0.0.1", server.port))
            await settle(lambda: server.connections == 2000, 60)
            for _ in range(20):
                with anyio.fail_after(5):
                    assert (await ask(server, GET)).status == 200
            await streams[1000].send(GET)
            assert (await Peer(streams[1000]).answer()).status == 200
    finally:
        for stream in streams:
            await anyio.aclose_forcefully(stream)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
