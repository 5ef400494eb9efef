"""The mocks do what the other tests take for granted."""

from __future__ import annotations

import json

import anyio
import pytest

from helexa.http import Client
from helexa.http.faults import UpstreamError, UpstreamUnreachable
from tests.gateway.mock_setups import loading, painting, refusing, reporting, streaming
from tests.gateway.mocks import CHAT, IMAGES, RESET, SILENT, gone, mock_neuron
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

BODY = b'{"model":"test-model","messages":[{"role":"user","content":"Hi"}]}'


async def post(client: Client, url: str, body: bytes = BODY) -> tuple[int, bytes]:
    async with client.request("POST", url, {"x-a": "b"}, body) as response:
        return response.status, await response.read(1 << 20)


async def test_it_answers_and_remembers() -> None:
    async with Client() as client, mock_neuron() as mock:
        status, body = await post(client, f"{mock.url}/v1/chat/completions")
        assert (status, json.loads(body)["model"]) == (200, "test-model")
        async with client.request("GET", f"{mock.url}/models/a%2Fb/endpoint") as response:
            assert json.loads(await response.read(100)) == {"url": mock.url}
        async with client.request("GET", f"{mock.url}/nowhere") as response:
            assert response.status == 404
            await response.read(100)
        assert (mock.hits, mock.connections) == (1, 1)
        assert [seen.model for seen in mock.requests] == ["", "a/b", ""]
        assert (mock.requests[0].header("X-A"), mock.requests[0].body) == ("b", BODY)


async def test_it_streams_refuses_paints_and_loads() -> None:
    setups = (streaming(2, usage=(3, 4)), painting(), loading([1000, 2000]))
    async with Client() as client, mock_neuron(*setups) as mock:
        _, body = await post(client, f"{mock.url}/v1/chat/completions")
        assert body.count(b"data: ") == 4
        assert b'"total_tokens":7' in body and body.endswith(b"data: [DONE]\n\n")
        _, body = await post(client, f"{mock.url}/v1/images/generations", b'{"seed":5}')
        assert json.loads(body)["echo_seed"] == 5
        order = b'{"model_id":"x","devices":[1]}'
        assert (await post(client, f"{mock.url}/models/load", order))[0] == 200
        async with client.request("GET", f"{mock.url}/models") as response:
            (entry,) = json.loads(await response.read(1000))
        assert (entry["id"], entry["devices"]) == ("x", [1])
        refusing(503, 6, "rate_limit_exceeded")(mock)
        async with client.request("POST", f"{mock.url}/v1/responses", body=BODY) as response:
            assert (response.status, response.headers.get("retry-after")) == (503, "6")


async def test_it_hangs_and_resets_and_is_gone() -> None:
    async with Client() as client, mock_neuron(reporting([])) as mock:
        mock.on(IMAGES, SILENT)
        with anyio.move_on_after(0.05):
            await post(client, f"{mock.url}/v1/images/generations")
        await settle(lambda: mock.left.is_set() and not mock.running[IMAGES])
        assert mock.most_running[IMAGES] == 1
        mock.on(CHAT, RESET)
        with pytest.raises(UpstreamError):
            await post(client, f"{mock.url}/v1/chat/completions")
        with pytest.raises(UpstreamUnreachable):
            await post(client, f"{gone()}/v1/chat/completions")
