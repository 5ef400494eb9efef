"""What a browser is told."""

from __future__ import annotations

import anyio
import pytest

from helexa.gateway.api.cors import preflight, without_cors
from helexa.http import Request, Response, serving
from tests.http.wire import ask

pytestmark = pytest.mark.anyio


async def test_g106_cors() -> None:
    async def handler(request: Request) -> Response:
        return preflight(request)

    async with serving(handler) as server:
        asked = b"OPTIONS /v1/nope HTTP/1.1\r\nhost: x\r\n%b\r\n"
        field = b"access-control-request-headers: authorization,x-a\r\n"
        with anyio.fail_after(10):
            named = await ask(server, asked % field)
            unnamed = await ask(server, asked % b"")
    assert (named.status, named.body) == (200, b"")
    assert named.header("access-control-allow-origin") == "*"
    assert named.header("access-control-expose-headers") == "*"
    assert named.header("access-control-allow-methods") == "*"
    assert named.header("access-control-allow-headers") == "authorization,x-a"
    assert unnamed.header("access-control-allow-headers") == "*"


def test_g106_each_field_is_there_once() -> None:
    fields = [(b"access-control-allow-origin", b"http://neuron"), (b"retry-after", b"5")]
    assert without_cors(fields) == [(b"retry-after", b"5")]
