"""What holds for every request: limits, CORS, unknown paths, draining, metrics of a chat."""

from __future__ import annotations

import gzip
import json

import anyio
import httpx
import pytest

from helexa.gateway.api.errors import render
from helexa.gateway.catalogue_file import CatalogueFile
from helexa.gateway.config import GatewayConfig, NeuronEntry
from helexa.gateway.run import Gateway
from helexa.http import AsgiApp
from helexa.protocol.control import Limit
from tests.gateway.front import BODY, CHAT_PATH, front, key
from tests.gateway.mock_setups import refusing, streaming
from tests.gateway.mocks import CHAT, mock_neuron
from tests.http.wire import ask, connected, post, settle

pytestmark = pytest.mark.anyio

KEYS = (key("sk-good", "acct-1", "key-1"),)
WIRE = json.dumps(BODY).encode()


async def test_g104_unknown_paths() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.http.get("/v1/nope")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        assert answer.json()["error"]["message"] == "Unknown request URL: GET /v1/nope"
        answer = await gw.http.delete("/v1/models")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["error"]["code"] == "method_not_allowed"
        answer = await gw.http.head("/v1/models")
        assert (answer.status_code, answer.content) == (200, b"")


async def test_g105_limits() -> None:
    large = json.dumps(BODY | {"pad": "x" * 3 * 2**20}).encode()
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await ask(gw.server, post(large, path=CHAT_PATH))
        assert answer.status == 200
        assert mock.seen(CHAT)[0].body == large
        packed = gzip.compress(WIRE)
        answer = await ask(gw.server, post(packed, "content-encoding: gzip", path=CHAT_PATH))
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
        assert answer.error["message"] == "request bodies must not be compressed"
    async with mock_neuron() as mock, front(mock, limits={"max_body_bytes": 2000}) as gw:
        answer = await ask(gw.server, post(b"x" * 2001, path=CHAT_PATH))
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.error["message"] == "request body exceeds 2000 bytes"
        head = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        async with connected(gw.server) as peer:
            await peer.send(head.encode() + b"7d1\r\n" + b"x" * 2001 + b"\r\n")
            answer = await peer.answer()
        assert (answer.status, mock.requests) == (413, [])


async def test_g106_cors() -> None:
    async with mock_neuron() as mock, front(mock, keys=KEYS, require_auth=True) as gw:
        asked = {"access-control-request-headers": "authorization", "origin": "http://x"}
        for path in (CHAT_PATH, "/anything"):
            answer = await gw.http.options(path, headers=asked)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["access-control-allow-methods"] == "*"
            assert answer.headers["access-control-allow-headers"] == "authorization"
        for path in ("/health", "/v1/models"):
            answer = await gw.http.get(path)
            assert answer.headers.get_list("access-control-allow-origin") == ["*"]
            assert answer.headers["access-control-expose-headers"] == "*"


@pytest.mark.parametrize(
    "fields",
    [("transfer-encoding: chunked",), ("content-length: 3",)],
    ids=["length and chunks", "two lengths"],
)
async def test_g108_smuggling(fields: tuple[str, ...]) -> None:
    async with mock_neuron() as mock, front(mock) as gw, connected(gw.server) as peer:
        await peer.send(post(WIRE, *fields, path=CHAT_PATH))
        answer = await peer.answer()
        assert answer.status == 400
        assert await peer.ended()
        assert mock.requests == []


async def test_g173_g175_over_long() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        gw.entry().limit = Limit(context=50, output=16)
        long = [{"role": "user", "content": "word " * 240}]
        for agent in ("litellm/1.0", ""):
            answer = await gw.post(messages=long, headers={"user-agent": agent})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
            assert (error["max"], error["estimated_prompt_tokens"]) == (50, 302)
            assert ("x-helexa-advice" in answer.headers) == (agent != "")
        assert mock.hits == 0
        for limit in (Limit(context=4096, output=16), Limit(), None):
            gw.entry().limit = limit
            assert (await gw.post(messages=long)).status_code == 200
            assert (await gw.post(path="/v1/messages", max_tokens=9)).status_code == 200


async def test_g177_metrics_after_a_chat() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        await gw.post()
        await settle(lambda: bool(gw.outcomes))
        text = gw.state.metrics.text().decode()
        assert 'cortex_requests_total{model="test-model",node="mock-node"} 1' in text
        assert "cortex_request_duration_seconds_count" in text
        assert "cortex_request_errors_total" not in text


async def test_g178_metrics_after_a_stream() -> None:
    async with mock_neuron(streaming(5, 0.04, (225, 42))) as mock, front(mock) as gw:
        await gw.post(stream=True)
        await settle(lambda: bool(gw.outcomes))
        assert gw.metric("cortex_time_to_first_token_seconds_count")
        assert gw.metric("cortex_tokens_per_second_count")
        (prompt,) = gw.metric("cortex_prompt_tokens_total")
        (completion,) = gw.metric("cortex_completion_tokens_total")
        assert (prompt[-4:], completion[-3:]) == (" 225", " 42")


async def test_g183_errors_total() -> None:
    async with mock_neuron(refusing(500)) as mock, front(mock) as gw:
        await gw.post()
        (line,) = gw.metric("cortex_request_errors_total")
        assert line.endswith(" 1")
        refusing(429)(mock)
        await gw.post()
        assert gw.metric("cortex_request_errors_total") == [line]


async def test_g184_drain() -> None:
    async with (
        mock_neuron(streaming(10, 0.05)) as mock,
        front(mock) as gw,
        connected(gw.server) as open_one,
        connected(gw.server) as streaming_one,
    ):
        await open_one.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await open_one.answer()).status == 200
        body = json.dumps(BODY | {"stream": True}).encode()
        await streaming_one.send(post(body, path=CHAT_PATH))
        await streaming_one.until(b"token1")
        gw.state.draining = True
        gw.server.stop(5.0)
        await open_one.send(post(WIRE, path=CHAT_PATH))
        answer = await open_one.answer()
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        assert answer.error["message"] == "gateway is shutting down"
        assert (answer.header("retry-after"), answer.header("connection")) == ("5", "close")
        rest = await streaming_one.until(b"\0never\0")
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_g186_embeds() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        transport = httpx.ASGITransport(app=AsgiApp(gw.app, render=render))
        async with httpx.AsyncClient(transport=transport, base_url="http://gw") as client:
            answer = await client.post(CHAT_PATH, json=BODY)
            assert answer.json()["choices"][0]["message"]["content"] == "Hello from mock backend"
        assert mock.count("GET /models") == 0  # nobody polls


async def test_g186_a_whole_gateway_as_an_asgi_app() -> None:
    async with mock_neuron() as mock:
        config = GatewayConfig(neurons=(NeuronEntry("mock-node", mock.url),))
        gateway = Gateway(config, CatalogueFile("/dev/null"), {})
        transport = httpx.ASGITransport(app=gateway.asgi())
        async with (
            gateway.running(),
            httpx.AsyncClient(transport=transport, base_url="http://gw") as client,
        ):
            await settle(lambda: bool(gateway.state.fleet.healthy))
            answer = await client.post(CHAT_PATH, json=BODY)
            assert answer.json()["choices"][0]["message"]["content"] == "Hello from mock backend"


async def test_the_line_of_a_request() -> None:
    async with mock_neuron() as mock, front(mock, keys=KEYS) as gw:
        await gw.post(headers={"authorization": "Bearer sk-good", "x-request-id": "r-1"})
        await gw.post(model="nope")
        await settle(lambda: len(gw.outcomes) == 2)
        done, refused = gw.outcomes
        assert done["head_ms"] <= done["total_ms"]
        times = ("head_ms", "total_ms", "bytes")
        assert {name: value for name, value in done.items() if name not in times} == {
            **{"request_id": "r-1", "wire": "openai-chat", "requested": "test-model"},
            **{"model": "test-model", "node": "mock-node", "status": 200, "stream": False},
            **{"cold_start": False, "attempts": 1, "prompt_tokens": 10, "completion_tokens": 5},
            **{"account": "acct-1", "key": "key-1", "outcome": "ok"},
        }
        assert (refused["status"], refused["outcome"], refused["attempts"]) == (404, "refused", 0)
        assert "sk-good" not in " ".join(str(record.__dict__) for record in gw.log)


async def test_g098_a_slow_client_is_cut_and_costs_little_memory() -> None:
    async with (
        mock_neuron() as mock,
        front(mock, proxy={"write_timeout_secs": 0.5}) as gw,
        connected(gw.server) as peer,
    ):
        part = b"data: " + b"x" * 65536 + b"\n\n"
        sent = 0

        from tests.gateway.mocks import Reply, Seen

        class Endless:
            def __iter__(self) -> Endless:
                return self

            def __next__(self) -> bytes:
                nonlocal sent
                sent += len(part)
                if sent > 100_000_000:
                    raise StopIteration
                return part

            def __len__(self) -> int:
                return 2

        async def chat(_: Seen) -> Reply:
            return Reply(200, Endless(), (("content-type", "text/event-stream"),))  # type: ignore[arg-type]  # no bytes

        mock.on(CHAT, chat)
        await peer.send(post(json.dumps(BODY | {"stream": True}).encode(), path=CHAT_PATH))
        with anyio.fail_after(10):
            await mock.left.wait()
        assert sent < 30_000_000
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "client_gone"
