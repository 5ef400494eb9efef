"""A request leaves nothing that only the garbage collector could find, however it ended."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType

import anyio
import pytest

from helexa.http import EventStream, Request, Response, Router, event, json_response, serving
from helexa.http.stream_wire import READ_BYTES, StreamWire
from helexa.neuron.api.answering import render
from helexa.neuron.app import Neuron
from helexa.neuron.config import NeuronConfig
from helexa.neuron.runtime import Runtime
from tests.http.wire import GET, connected, post, reset, settle

pytestmark = pytest.mark.anyio
TIMES = 20


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """What of ours became unreachable in cycles, by type or by the function of a frame."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.freeze()  # what earlier tests still let go of is not ours
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(filter(None, map(ours, gc.garbage)))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
        gc.collect()


def ours(thing: object) -> str:
    if isinstance(thing, FrameType):
        return thing.f_code.co_qualname if "helexa" in thing.f_code.co_filename else ""
    kind = type(thing)
    return kind.__qualname__ if kind.__module__.startswith("helexa.") else ""


async def test_answered_and_refused_requests() -> None:
    async def told(request: Request) -> Response:
        return json_response(await request.json())

    router = Router()
    router.add("POST", "/", told)
    async with serving(router) as server:
        with garbage() as found:
            for path in ("/", "/nowhere") * TIMES:
                async with connected(server) as peer:
                    await peer.send(post(b"{}", "connection: close", path=path))
                    assert (await peer.answer()).status == (200 if path == "/" else 404)
            await settle(lambda: server.connections == 0)
    assert not found


async def test_an_inference_request_that_is_refused() -> None:
    neuron = Neuron(NeuronConfig(port=0), Runtime(), {})
    body = b'{"model": "org/none", "messages": [{"role": "user", "content": "Hello!"}]}'
    async with serving(neuron.router(), render=render, observe=neuron.observe) as server:
        with garbage() as found:
            for _ in range(TIMES):
                async with connected(server) as peer:
                    await peer.send(post(body, "connection: close", path="/v1/chat/completions"))
                    assert (await peer.answer()).status == 404
            await settle(lambda: server.connections == 0)
    assert not found


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_streams_whose_clients_leave() -> None:
    """Not on trio: anyio's socket keeps a send that is cancelled there in a cycle of its own."""

    async def endless(_: Request) -> Response:
        async def frames() -> AsyncIterator[bytes]:
            while True:
                yield event("on and on")
                await anyio.sleep(0.001)

        return EventStream(frames())

    async with serving(endless) as server:
        with garbage() as found:
            for _ in range(TIMES):
                async with connected(server) as peer:
                    await peer.send(GET)
                    await peer.until(b"on and on")
                    reset(peer.stream)  # type: ignore[arg-type]  # a plain socket, without TLS
            await settle(lambda: server.connections == 0)
    assert not found


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_reads_in_small_pieces() -> None:
    """A guard over attributes that are not public: it fails when they move."""
    async with serving(Router()) as server, connected(server) as peer:
        wire = StreamWire(peer.stream)
        assert peer.stream._transport.max_size == READ_BYTES  # type: ignore[attr-defined]  # private
        assert not wire.ended
