"""Connections over asyncio's transports and over anyio's streams: one behaviour."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import IPPROTO_TCP, TCP_NODELAY

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from helexa.http import Client, ClientConfig
from helexa.http.arrivals import Arrivals
from helexa.http.asyncio_wire import AsyncioWire, new_scratch, over_asyncio
from helexa.http.faults import UpstreamTimeout
from helexa.http.stream_wire import PulledWire, StreamWire
from helexa.http.wire import BROKEN, HIGH_WATER_BYTES, ClientWire, ServerWire
from tests.http.upstreams import OK, answering, upstream
from tests.http.wire import reset, settle

pytestmark = pytest.mark.anyio
Pair = tuple[SocketStream, ServerWire]


@asynccontextmanager
async def accepted(*, generic: bool = False) -> AsyncIterator[Pair]:
    """A client's stream, and the server's wire to it."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    (listener,) = multi.listeners
    assert isinstance(listener, SocketListener)
    async with (
        multi,
        await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port)) as stream,
    ):
        if generic:
            wire: ServerWire = StreamWire(await listener.accept())
        else:
            wire = await (await Arrivals(listener, None).next()).open()
        try:
            yield stream, wire
        finally:
            await wire.close()


@asynccontextmanager
async def made(*, generic: bool = False) -> AsyncIterator[tuple[SocketStream, ClientWire]]:
    """A server's stream, and the client's wire to it."""
    async with accepted(generic=True) as (stream, server):
        assert isinstance(server, StreamWire)
        ours = None if generic else over_asyncio(stream, new_scratch())
        yield server._stream, ours or PulledWire(stream)  # type: ignore[misc]  # it is a socket


async def test_asyncio_has_the_faster_one(anyio_backend: str) -> None:
    """A guard over what is not public of anyio: without it all works, and slower."""
    fast = anyio_backend == "asyncio"
    async with accepted() as (_, wire), made() as (_, ours):
        assert isinstance(wire, AsyncioWire) == fast
        assert isinstance(ours, AsyncioWire) == fast


@pytest.mark.parametrize("generic", [True, False])
async def test_small_pieces_do_not_wait_for_one_another(generic: bool) -> None:
    async with accepted(generic=generic) as (_, wire):
        raw = (
            wire._transport.get_extra_info("socket")
            if isinstance(wire, AsyncioWire)
            else wire._stream.extra(SocketAttribute.raw_socket)  # type: ignore[attr-defined]  # a StreamWire
        )
        assert raw.getsockopt(IPPROTO_TCP, TCP_NODELAY) != 0


@pytest.mark.parametrize("generic", [True, False])
async def test_bytes_come_and_go(generic: bool) -> None:
    async with accepted(generic=generic) as (stream, wire):
        assert wire.peer == "127.0.0.1"
        left = anyio.Event()
        async with wire.listening(left.set):
            await stream.send(b"one")
            while wire.buffer != b"one":
                await wire.wait()
            await wire.send(b"two")
            assert await stream.receive() == b"two"
            await wire.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.send(b" more")
            while wire.buffer != b"one more":
                await wire.wait()
            await stream.aclose()
            await left.wait()
            assert wire.ended
            await wire.wait()  # at once, for ever


@pytest.mark.parametrize("generic", [True, False])
async def test_who_waits_can_be_woken(generic: bool) -> None:
    async with (
        accepted(generic=generic) as (_, wire),
        wire.listening(lambda: None),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(wire.wait)
        await anyio.sleep(0.05)
        wire.wake()


@pytest.mark.parametrize("generic", [True, False])
@pytest.mark.parametrize("how", ["half", "close", "reset"])
async def test_the_end_is_told_once(generic: bool, how: str) -> None:
    ends: list[int] = []
    async with accepted(generic=generic) as (stream, wire):
        async with wire.listening(lambda: ends.append(1)):
            if how == "half":
                await stream.send_eof()
            elif how == "reset":
                reset(stream)
            if how != "half":
                await stream.aclose()
            await settle(lambda: bool(ends))
            await anyio.sleep(0.02)  # were there another, it would be told now
            assert (ends, wire.ended) == ([1], True)
        async with wire.listening(lambda: ends.append(2)):  # as for a farewell
            await settle(lambda: ends == [1, 2])


@pytest.mark.parametrize("generic", [True, False])
async def test_reading_ahead_stops_while_much_is_waiting(generic: bool) -> None:
    whole = HIGH_WATER_BYTES * 100
    async with (
        accepted(generic=generic) as (stream, wire),
        anyio.create_task_group() as tasks,
        wire.listening(lambda: None),
    ):
        tasks.start_soon(stream.send, b"x" * whole)
        await settle(lambda: len(wire.buffer) >= HIGH_WATER_BYTES)
        await anyio.sleep(0.1)
        assert len(wire.buffer) < 2 * HIGH_WATER_BYTES
        taken = 0
        while taken < whole:
            taken += len(wire.buffer)
            wire.buffer.clear()
            if taken < whole:
                await wire.wait()


@pytest.mark.parametrize("generic", [True, False])
async def test_what_is_discarded_is_read_all_the_same(generic: bool) -> None:
    async with accepted(generic=generic) as (stream, wire), anyio.create_task_group() as tasks:
        left = anyio.Event()
        async with wire.listening(left.set):
            tasks.start_soon(stream.send, b"x" * HIGH_WATER_BYTES * 2)
            await settle(lambda: len(wire.buffer) >= HIGH_WATER_BYTES)
            wire.discard()
            await stream.send(b"x" * HIGH_WATER_BYTES * 50)
            await stream.aclose()
            await left.wait()
            assert not wire.buffer


@pytest.mark.parametrize("generic", [True, False])
async def test_sending_to_nobody_fails(generic: bool) -> None:
    async with accepted(generic=generic) as (stream, wire):
        reset(stream)
        await stream.aclose()
        async with wire.listening(lambda: None):
            with pytest.raises(BROKEN), anyio.fail_after(5):
                while True:
                    await wire.send(b"x" * 1000)


@pytest.mark.parametrize("generic", [True, False])
async def test_sending_waits_until_there_is_room(generic: bool) -> None:
    sent = 0
    async with accepted(generic=generic) as (stream, wire), anyio.create_task_group() as tasks:

        async def send() -> None:
            nonlocal sent
            for _ in range(1000):
                await wire.send(b"x" * 65536)
                sent += 65536

        async with wire.listening(lambda: None):
            tasks.start_soon(send)
            await anyio.sleep(0.2)
            assert 0 < sent < 65_536_000
            taken = 0
            while taken < 65_536_000:
                taken += len(await stream.receive())
            await settle(lambda: sent == 65_536_000)


async def test_others_get_their_turn_while_one_sends() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with (
        accepted() as (_, wire),
        anyio.create_task_group() as tasks,
        wire.listening(lambda: None),
    ):
        tasks.start_soon(count)
        for _ in range(200):
            await wire.send(b"x")
        assert turns > 5
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("generic", [True, False])
async def test_nobody_waits_longer_than_he_wants(generic: bool) -> None:
    async with made(generic=generic) as (stream, wire):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"x")
            assert await wire.more(wire.now() + 20)
        wire.buffer.clear()
        for wait_s in (0.3, 0.05, 0.0):  # a later one may be due earlier
            began = wire.now()
            assert not await wire.more(began + wait_s)
            assert wait_s - 0.01 <= wire.now() - began < 10
        for _ in range(5):  # each is in time, all of them together were not
            await stream.send(b"x")
            assert wire.buffer or await wire.more(wire.now() + 0.2)
            assert wire.buffer == b"x"
            wire.buffer.clear()
            await anyio.sleep(0.05)
        assert not wire.ended


@pytest.mark.parametrize("generic", [True, False])
async def test_a_peer_that_takes_nothing(generic: bool) -> None:
    async with made(generic=generic) as (_, wire):
        with pytest.raises(TimeoutError), anyio.fail_after(9):
            for _ in range(1000):
                await wire.send(b"x" * 65536, 0.2)


@pytest.mark.parametrize("generic", [True, False])
@pytest.mark.parametrize("broken", [True, False])
async def test_how_it_ended(generic: bool, broken: bool) -> None:
    async with made(generic=generic) as (stream, wire):
        assert not wire.stale
        if broken:
            reset(stream)
        await stream.aclose()
        await settle(lambda: wire.stale)
        assert wire.ended or await wire.more(wire.now() + 5)
        assert wire.ended
        assert bool(wire.broke) == broken


async def test_a_request_has_a_patience_of_its_own() -> None:
    async def fetch(client: Client, url: str, idle_timeout_s: float | None) -> bytes:
        async with client.request("GET", url, idle_timeout_s=idle_timeout_s) as answer:
            return await answer.read(100)

    act = answering(OK, pause_s=0.5, at=len(OK) - 1)
    async with upstream(act) as mock, Client(ClientConfig(idle_timeout_s=0.1)) as client:
        with pytest.raises(UpstreamTimeout):
            await fetch(client, mock.url, None)
        assert await fetch(client, mock.url, 5.0) == b"ok"
