"""The relay of helexa.http alone: server, router, client, and no policy.

python -m benchmarks.http_relay UPSTREAM PORT
"""

from __future__ import annotations

import sys

import anyio

from helexa.http import Client, Request, Response, Router, Server, ServerConfig, relay


async def main(upstream: str, port: int) -> None:
    """Serve until cancelled."""
    async with Client() as client:

        async def pass_on(request: Request) -> Response:
            return await relay(request, client, upstream + request.path)

        router = Router()
        router.add("POST", "/v1/chat/completions", pass_on)
        await Server(router, ServerConfig(port=port)).serve()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
