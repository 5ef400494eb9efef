"""Chats, completions and responses through the front door: bytes in, bytes out."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import pytest

from helexa.gateway.catalogue import Catalogue
from helexa.protocol.control import Servable
from tests.gateway.front import BODY, CHAT_PATH, front
from tests.gateway.mock_setups import EVENTS, refusing, streaming
from tests.gateway.mocks import CHAT, COMPLETIONS, RESPONSES, Reply, as_json, mock_neuron
from tests.http.wire import ask, connected, post, settle, soon

pytestmark = pytest.mark.anyio

SYS = "You must reply with exactly the word PONG and nothing else."
PATHS = (
    CHAT_PATH,
    "/v1/completions",
    "/v1/responses",
    "/v1/images/generations",
)


async def test_g085_chat() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post()
        assert answer.status_code == 200
        said = answer.json()
        assert (said["id"], said["model"]) == ("chatcmpl-test-001", "test-model")
        assert said["choices"][0]["message"]["content"] == "Hello from mock backend"
        assert said["usage"]["total_tokens"] == 15
        assert mock.hits == 1


async def test_g086_bytes() -> None:
    odd = '{ "model" :"test-model","x":1e400,"x":[ 1.10 ],"ü":"\\ud83d"}\r\n '.encode()
    told = '\t{"a":1,"a" : 1e999, "ß":"\\u0000"}\n'.encode()
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(CHAT, Reply(200, (told,), (("content-type", "application/JSON; x=1"),)))
        answer = await ask(gw.server, post(odd, path=CHAT_PATH))
        assert mock.seen(CHAT)[0].body == odd
        assert answer.body == told
        assert answer.header("content-type") == "application/JSON; x=1"


async def test_g013_g087_alias_rewritten() -> None:
    catalogue = Catalogue(aliases={"helexa/small": "test-model"})
    body = b'{"big":12345678901234567890123,"model":"helexa/small","z":{"model":"helexa/small"}}'
    async with mock_neuron() as mock, front(mock, catalogue=catalogue) as gw:
        answer = await ask(gw.server, post(body, path=CHAT_PATH))
        assert json.loads(answer.body)["model"] == "test-model"
        assert mock.seen(CHAT)[0].body == body.replace(
            b'"model":"helexa/small","z"', b'"model":"test-model","z"'
        )


async def test_g015_alias_unmapped() -> None:
    catalogue = Catalogue(aliases={"helexa/large": "definitely-not-loaded"})
    async with mock_neuron() as mock, front(mock, catalogue=catalogue) as gw:
        assert (await gw.post()).json()["model"] == "test-model"
        listed = (await gw.http.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["test-model"]


HEADERS = (
    *("x-a: one", "x-a: two", "x-include-thinking: yes", "authorization: Bearer sk-x"),
    *("x-api-key: sk-x", "connection: x-b", "x-b: gone", "te: trailers"),
    *("x-helexa-account-id: attacker", "accept-encoding: gzip"),
)


@pytest.mark.parametrize("forward", [False, True], ids=["kept", "forwarded"])
async def test_g088_headers_up(forward: bool) -> None:
    async with (
        mock_neuron() as mock,
        front(mock, proxy={"forward_authorization": forward}) as gw,
    ):
        await ask(gw.server, post(json.dumps(BODY).encode(), *HEADERS, path=CHAT_PATH))
        head = mock.seen(CHAT)[0].head.decode().lower()
        lines = head.split("\r\n")
        assert [line for line in lines if line.startswith("x-a:")] == ["x-a: one", "x-a: two"]
        assert "x-include-thinking: yes" in lines
        assert "accept-encoding: identity" in lines
        assert ("authorization: bearer sk-x" in lines) == forward
        assert ("x-api-key: sk-x" in lines) == forward
        assert not [line for line in lines if line.startswith(("x-b:", "te:", "x-helexa"))]


async def test_g088_a_bearer_of_the_node_wins() -> None:
    async with (
        mock_neuron() as mock,
        front(mock, proxy={"forward_authorization": True}) as gw,
    ):
        gw.node().bearer = "node-secret"
        await ask(gw.server, post(json.dumps(BODY).encode(), *HEADERS, path=CHAT_PATH))
        assert [seen.header("authorization") for seen in mock.requests] == [
            "Bearer node-secret",
            "Bearer node-secret",
        ]


async def test_g089_headers_down() -> None:
    fields = (
        *(("content-type", "application/json"), ("set-cookie", "a=1"), ("set-cookie", "b=2")),
        *(
            ("retry-after", "7"),
            ("connection", "x-c"),
            ("x-c", "gone"),
            ("keep-alive", "timeout=5"),
        ),
    )
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(CHAT, Reply(200, (b"{}",), fields))
        answer = await ask(gw.server, post(json.dumps(BODY).encode(), path=CHAT_PATH))
        assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]
        assert (answer.header("retry-after"), answer.header("content-length")) == ("7", "2")
        assert answer.header("x-c") is None
        assert answer.header("keep-alive") is None


async def test_g090_g091_sse() -> None:
    async with mock_neuron(streaming(5, 0.1)) as mock, front(mock) as gw:
        request = gw.http.stream("POST", CHAT_PATH, json=BODY | {"stream": True})
        async with request as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            lines = [(time.monotonic(), line) async for line in answer.aiter_lines()]
        arrived = [(at, line.removeprefix("data: ")) for at, line in lines if line]
        times, items = zip(*arrived, strict=True)
        assert items[-1] == "[DONE]"
        texts = [json.loads(item)["choices"][0]["delta"]["content"] for item in items[:-1]]
        assert texts == [f"token{i}" for i in range(5)]
        assert times[-1] - times[0] >= 0.1


async def test_g092_non_2xx_is_passed_on_whole() -> None:
    body = b"x" * 100 * 1024
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(CHAT, Reply(429, (body,), (("content-type", "text/plain"), ("x-y", "z"))))
        answer = await gw.post()
        assert (answer.status_code, answer.content, answer.headers["x-y"]) == (429, body, "z")


async def test_g093_a_long_stream_is_not_silence() -> None:
    async with (
        mock_neuron(streaming(20, 0.1)) as mock,
        front(mock, proxy={"idle_timeout_secs": 1.6}) as gw,
    ):
        began = time.monotonic()
        answer = await gw.post(stream=True)
        assert time.monotonic() - began > 1.6
        assert answer.text.count("token") == 20
        assert answer.text.endswith("data: [DONE]\n\n")


async def test_g094_stalled() -> None:
    part = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    async with (
        mock_neuron() as mock,
        front(mock, proxy={"idle_timeout_secs": 0.4}) as gw,
    ):
        mock.on(CHAT, Reply(200, (part, part), EVENTS, then="silence"))
        body = json.dumps(BODY | {"stream": True}).encode()
        async with connected(gw.server) as peer:
            await peer.send(post(body, path=CHAT_PATH))
            began = time.monotonic()
            told = await peer.until(b"\0never\0")
            assert 0.3 < time.monotonic() - began < 5
        assert told.count(part) == 2
        assert not told.endswith(b"0\r\n\r\n")
        await soon(mock.left)
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "timeout"
        assert gw.metric("cortex_request_errors_total") == [
            'cortex_request_errors_total{model="test-model",node="mock-node"} 1'
        ]


async def test_g095_comments_keep_a_stream_alive() -> None:
    parts = (
        *[b":\n\n"] * 8,
        b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
        b"data: [DONE]\n\n",
    )
    async with (
        mock_neuron() as mock,
        front(mock, proxy={"idle_timeout_secs": 1.5}) as gw,
    ):
        mock.on(CHAT, Reply(200, parts, EVENTS, pause_s=0.25))
        answer = await gw.post(stream=True)
        assert answer.content == b"".join(parts)
        (line,) = gw.metric("cortex_time_to_first_token_seconds_sum")
        assert float(line.rpartition(" ")[2]) >= 1.9


@pytest.mark.parametrize(("stream", "status"), [(False, 200), (True, 504)])
async def test_g096_slow_head(stream: bool, status: int) -> None:
    async with (
        mock_neuron() as mock,
        front(mock, proxy={"first_byte_timeout_secs": 0.3}) as gw,
    ):
        mock.on(CHAT, as_json({"late": True}, pause_s=0.8))
        answer = await gw.post(stream=stream)
        assert answer.status_code == status
        if status == 504:
            assert answer.json()["error"]["code"] == "upstream_timeout"
            await soon(mock.left)


async def test_g097_client_gone() -> None:
    async with mock_neuron(streaming(1000, 0.02)) as mock, front(mock) as gw:
        async with connected(gw.server) as peer:
            body = json.dumps(BODY | {"stream": True}).encode()
            await peer.send(post(body, path=CHAT_PATH))
            await peer.until(b"token2")
        with anyio.fail_after(1):
            await mock.left.wait()
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "client_gone"
        assert gw.node().own.get("test-model", 0) == 0


async def test_g099_responses() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post({"model": "test-model", "input": "Hi"}, "/v1/responses")
        said = answer.json()
        assert (said["id"], said["object"]) == ("resp-test-001", "response")
        assert said["output"][0]["content"][0]["text"] == "Hello from mock backend"
        assert (said["usage"]["input_tokens"], said["usage"]["total_tokens"]) == (5, 10)
        assert mock.count(RESPONSES) == 1


NO_MODEL = {
    "none": b"{}",
    "list": b"[]",
    "broken": b'{"model":',
    "number": b'{"model":5}',
    "deep": b'{"model":"test-model","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
}


@pytest.mark.parametrize("body", NO_MODEL.values(), ids=NO_MODEL)
@pytest.mark.parametrize("path", PATHS)
async def test_g100_missing_model(path: str, body: bytes) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await ask(gw.server, post(body, path=path))
        error = answer.error
        assert (answer.status, error["type"]) == (400, "invalid_request_error")
        assert (error["code"], error["param"]) == ("missing_model_field", None)
        assert "model" in error["message"]
        assert mock.requests == []


@pytest.mark.parametrize("path", PATHS)
async def test_g101_unknown_model(path: str) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post(path=path, model="nonexistent-model")
        assert answer.status_code == 404
        assert answer.json()["error"] == {
            "message": "model 'nonexistent-model' not found on any node and not in catalogue",
            **{"type": "invalid_request_error", "code": "model_not_found", "param": None},
        }


async def test_g102_no_healthy_node() -> None:
    async with front({"dead": "http://127.0.0.1:1"}, seeded=False) as gw:
        answer = await gw.post(model="any-model")
        error = answer.json()["error"]
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (error["type"], error["code"]) == ("api_error", "service_unavailable")
        assert (error["param"], error["message"]) == (None, "no healthy nodes available")


async def test_g103_a_neuron_without_the_route() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post({"model": "test-model", "prompt": "Hi"}, "/v1/completions")
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
        assert mock.count(COMPLETIONS) == 1


async def test_g107_request_id() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        for given in ("abc", None, "x" * 500):
            headers = {} if given is None else {"x-request-id": given}
            answer = await gw.post(headers=headers)
            seen = mock.seen(CHAT)[-1].header("x-request-id")
            told = answer.headers["x-request-id"]
            assert seen == told
            assert (told == given) == (given == "abc")
            assert told == given or told.startswith("req_")


async def test_g110_g076_backpressure_is_passed_on() -> None:
    async with mock_neuron(refusing(503, 6, "rate_limit_exceeded")) as mock, front(mock) as gw:
        answer = await gw.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "6")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert mock.hits == 1
        images = await gw.post({"model": "test-model", "prompt": "x"}, "/v1/images/generations")
        assert (images.status_code, images.headers["retry-after"]) == (503, "6")
        assert images.content == answer.content


SYSTEMS: list[list[dict[str, Any]]] = [
    [{"role": "system", "content": SYS}, {"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "End your reply with ALPHA."},
        {"role": "system", "content": "End your reply with OMEGA instead."},
        {"role": "user", "content": "Hi"},
    ],
    [{"role": "user", "content": "Hi"}],
]


@pytest.mark.parametrize("messages", SYSTEMS, ids=["one", "two", "none"])
async def test_g112_g114_system_prompts_are_the_callers(messages: list[dict[str, Any]]) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        await gw.post(messages=messages)
        assert mock.seen(CHAT)[0].json["messages"] == messages


async def test_g113_instructions_are_the_callers() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        body = {"model": "test-model", "instructions": SYS, "input": "Hi"}
        await gw.post(body, "/v1/responses")
        assert mock.seen(RESPONSES)[0].json == body


async def test_g046_resident_but_not_servable() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        gw.entry().servable = Servable(ok=False, reason="insufficient_vram")
        answer = await gw.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "cannot be served: insufficient_vram" in answer.json()["error"]["message"]
        assert mock.requests == []


async def test_g070_last_accessed() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        assert gw.entry().last_accessed is None
        await gw.post()
        assert gw.entry().last_accessed is not None


async def test_g072_one_endpoint_question_for_two_chats() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        await gw.post()
        await gw.post()
        assert mock.count("GET /models/{id}/endpoint") == 1
        assert mock.hits == 2
