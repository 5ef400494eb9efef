"""The memory that request bodies may take together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from helexa.http import BodyBudget, Request, Response, Server, ServerConfig, serving
from helexa.http.framing import chunk
from helexa.refusals import Unavailable
from tests.http.wire import Stuck, ask, connected, post, settle, soon

pytestmark = pytest.mark.anyio
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def budgeted(stuck: Stuck) -> AsyncIterator[tuple[Server, BodyBudget]]:
    """Takes 1000 bytes; a request for /hold keeps its body until its client leaves."""
    budget = BodyBudget(1000, lambda: Unavailable("at its memory limit", retry_after_s=1))

    async def handler(request: Request) -> Response:
        body = await request.body()
        return await stuck(request) if request.path == "/hold" else Response(body)

    async with serving(handler, ServerConfig(body_budget=budget), drain_s=0) as server:
        yield server, budget


async def test_bodies_are_counted_until_their_requests_end() -> None:
    stuck = Stuck()
    async with budgeted(stuck) as (server, budget):
        assert (await ask(server, post(b"x" * 1000))).body == b"x" * 1000
        await settle(lambda: budget.held_bytes == 0)
        async with connected(server) as holder:
            await holder.send(post(b"x" * 600, path="/hold"))
            await soon(stuck.entered)
            assert budget.held_bytes == 600
            assert (await ask(server, post(b"x" * 400))).status == 200
            answer = await ask(server, post(b"x" * 401))
            assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
            assert answer.header("retry-after") == "1"
        await soon(stuck.left)
        await settle(lambda: budget.held_bytes == 0)
        assert (await ask(server, post(b"x" * 401))).status == 200


async def test_what_is_announced_is_refused_before_it_comes() -> None:
    async with budgeted(Stuck()) as (server, budget), connected(server) as peer:
        await peer.send(post(b"x" * 1001)[:-1001])
        assert (await peer.answer()).status == 503
        assert await peer.ended()
        assert budget.held_bytes == 0


async def test_only_what_has_come_counts() -> None:
    """Else a few clients that announce much and send nothing would lock out all others."""
    async with budgeted(Stuck()) as (server, budget), connected(server) as slow:
        await slow.send(post(b"x" * 1000)[:-990])
        await settle(lambda: budget.held_bytes == 10)
        assert (await ask(server, post(b"x" * 990))).status == 200


async def test_chunks_are_counted_as_they_come() -> None:
    async with budgeted(Stuck()) as (server, budget), connected(server) as peer:
        await peer.send(CHUNKED + chunk(b"x" * 600))
        await settle(lambda: budget.held_bytes == 600)
        await peer.send(chunk(b"x" * 401))
        assert (await peer.answer()).status == 503
        await settle(lambda: budget.held_bytes == 0)
