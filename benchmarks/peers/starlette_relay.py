"""The relay that most would write: Starlette, uvicorn with h11, httpx.

    python starlette_relay.py UPSTREAM PORT

A file of its own, run by the interpreter that has these libraries.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_HOP = {"connection", "transfer-encoding", "keep-alive", "host", "content-length"}


def application(upstream: str) -> Starlette:
    """Passes every chat on, and its answer back as it comes."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as client:
            app.state.client = client
            yield

    async def relay(request: Request) -> Response:
        client: httpx.AsyncClient = request.app.state.client
        fields = [(name, value) for name, value in request.headers.items() if name not in _HOP]
        asked = client.build_request(
            *(request.method, upstream + request.url.path),
            headers=[*fields, ("accept-encoding", "identity")],
            content=await request.body(),
        )
        answer = await client.send(asked, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP}
        if "content-length" in answer.headers:
            body = await answer.aread()
            await answer.aclose()
            return Response(body, answer.status_code, kept)
        return StreamingResponse(_parts(answer), answer.status_code, kept)

    route = Route("/v1/chat/completions", relay, methods=["POST"])
    return Starlette(routes=[route], lifespan=lifespan)


async def _parts(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[1]),
        **{"host": "127.0.0.1", "port": int(sys.argv[2]), "loop": "asyncio", "http": "h11"},
        **{"access_log": False, "log_level": "warning"},
    )
