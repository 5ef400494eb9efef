"""The messages API through the front door."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.protocol.control import Limit
from tests.gateway.front import front, key
from tests.gateway.mock_setups import EVENTS, frame, loading, refusing, streaming
from tests.gateway.mocks import CHAT, Reply, as_json, mock_neuron
from tests.http.wire import ask, post, settle

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
SYS = "You must reply with exactly the word PONG and nothing else."
ASK: dict[str, Any] = {
    "model": "test-model",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of a stream of events."""
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_g115_round_trip() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post(ASK, MESSAGES)
        said = answer.json()
        assert answer.status_code == 200
        assert (said["type"], said["role"], said["model"]) == ("message", "assistant", "test-model")
        assert said["content"] == [{"type": "text", "text": "Hello from mock backend"}]
        assert (said["stop_reason"], said["stop_sequence"]) == ("end_turn", None)
        assert said["usage"] == {"input_tokens": 10, "output_tokens": 5}
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        sent = mock.seen(CHAT)[0]
        assert sent.json == {**ASK}
        names = {line.partition(b":")[0].lower() for line in sent.head.split(b"\r\n")[1:-2]}
        assert names == {b"host", b"content-type", b"content-length", b"x-request-id"}


@pytest.mark.parametrize("system", [SYS, [{"type": "text", "text": SYS}]], ids=["text", "blocks"])
async def test_g116_system(system: Any) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        blocks = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}]}]
        answer = await gw.post(ASK | {"system": system, "messages": blocks}, MESSAGES)
        assert answer.status_code == 200
        sent = mock.seen(CHAT)[0].json["messages"]
        assert sent == [
            {"role": "system", "content": SYS},
            {"role": "user", "content": "What is this?"},
        ]


async def test_g114_nothing_injected() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        await gw.post(ASK, MESSAGES)
        assert mock.seen(CHAT)[0].json["messages"] == ASK["messages"]


ERRORS: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown model": (ASK | {"model": "nonexistent"}, 404, "not_found_error"),
    "no message": ({"not_a_valid": "request"}, 400, "invalid_request_error"),
    "no max_tokens": (
        {"model": "test-model", "messages": ASK["messages"]},
        400,
        "invalid_request_error",
    ),
}


@pytest.mark.parametrize(("body", "status", "kind"), ERRORS.values(), ids=ERRORS)
async def test_g117_errors(body: dict[str, Any], status: int, kind: str) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post(body, MESSAGES)
        said = answer.json()
        assert (answer.status_code, said["type"], said["error"]["type"]) == (status, "error", kind)
        assert said["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
        assert mock.hits == 0


async def test_g117_errors_of_the_gateway() -> None:
    keys = (key("sk-poor", "a", "k", hard_cap=10),)
    async with mock_neuron() as mock, front(mock, keys=keys, require_auth=True) as gw:
        answer = await gw.post(ASK, MESSAGES)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        answer = await gw.post(ASK, MESSAGES, {"x-api-key": "sk-poor"})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (429, "rate_limit_error")
        assert error["code"] == "insufficient_quota"
        gw.node().healthy = False
        answer = await gw.post(ASK, MESSAGES, {"x-api-key": "sk-poor"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"]["type"] == "overloaded_error"
    async with mock_neuron() as mock, front(mock, limits={"max_body_bytes": 100}) as gw:
        large = await ask(gw.server, post(b"x" * 101, path=MESSAGES))
        assert (large.status, large.error["type"]) == (413, "request_too_large")


@pytest.mark.parametrize("stream", [False, True])
async def test_g118_an_error_of_the_neuron(stream: bool) -> None:
    refusal = refusing(503, 6, "rate_limit_exceeded", "so busy")
    async with mock_neuron(refusal) as mock, front(mock) as gw:
        answer = await gw.post(ASK, MESSAGES, stream=stream)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "6")
        assert answer.json()["error"] == {
            "type": "overloaded_error",
            **{"message": "so busy", "code": "rate_limit_exceeded"},
        }
        assert answer.headers.get_list("request-id") == [answer.json()["request_id"]]


@pytest.mark.parametrize("path", [MESSAGES, COUNT, "/v1/%6dessages"])
async def test_each_answer_has_its_id_once(path: str) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        for body in (ASK, ASK | {"stream": True}, ASK | {"model": "nope"}, {}):
            answer = await gw.post(body, path)
            assert answer.headers.get_list("request-id") == [answer.headers["x-request-id"]]
        refusing(503)(mock)
        answer = await gw.post(ASK, path)
        assert answer.headers.get_list("request-id") == [answer.headers["x-request-id"]]


async def test_what_can_be_read_but_not_written_is_refused() -> None:
    """Some depth of nesting is within the limits of the one and beyond those of the other.

    Where that is depends on how deep the stack is anyway, so it is looked for.
    """
    async with mock_neuron() as mock, front(mock) as gw:

        async def taken(depth: int) -> bool:
            nested = json.dumps(ASK).encode()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
            answer = await ask(gw.server, post(nested, path=MESSAGES))
            if answer.status != 200:
                assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
            return answer.status == 200

        fine, deep = 1, 100_000
        assert await taken(fine) and not await taken(deep)
        while deep - fine > 1:
            middle = (fine + deep) // 2
            fine, deep = (middle, deep) if await taken(middle) else (fine, middle)
        for depth in range(max(1, fine - 5), deep + 70):
            assert await taken(depth) == (depth <= fine)


async def test_g126_stream() -> None:
    async with mock_neuron(streaming(4, 0.02)) as mock, front(mock) as gw:
        answer = await gw.post(ASK | {"max_tokens": 64}, MESSAGES, stream=True)
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"
        assert "chat.completion.chunk" not in answer.text
        told = events(answer.text)
        assert [name for name, _ in told] == [
            *("message_start", "content_block_start"),
            *["content_block_delta"] * 4,
            *("content_block_stop", "message_delta", "message_stop"),
        ]
        assert all(data["type"] == name for name, data in told)
        texts = [d["delta"]["text"] for name, d in told if name == "content_block_delta"]
        assert "".join(texts) == "token0token1token2token3"
        end = dict(told)["message_delta"]
        assert end["delta"]["stop_reason"] == "end_turn"
        assert end["usage"]["output_tokens"] == 4
        assert mock.seen(CHAT)[0].json["stream_options"] == {"include_usage": True}


async def test_g127_g179_usage_of_a_stream() -> None:
    async with mock_neuron(streaming(3, 0.06, (225, 42))) as mock, front(mock) as gw:
        answer = await gw.post(ASK, MESSAGES, stream=True)
        usage = dict(events(answer.text))["message_delta"]["usage"]
        assert (usage["output_tokens"], usage["input_tokens"]) == (42, 225)
        await settle(lambda: bool(gw.outcomes))
        for name, count in (("prompt", 225), ("completion", 42)):
            (line,) = gw.metric(f"cortex_{name}_tokens_total")
            assert line.endswith(f" {count}")
        assert gw.metric("cortex_tokens_per_second_count")
        assert gw.outcomes[0]["wire"] == "anthropic"


async def test_g179_usage_of_an_answer() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        await gw.post(ASK, MESSAGES)
        await settle(lambda: bool(gw.outcomes))
        (line,) = gw.metric("cortex_completion_tokens_total")
        assert line.endswith(" 5")


BROKEN: dict[str, Reply] = {
    "reset": Reply(
        200,
        [frame({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}}]})] * 2,
        EVENTS,
        pause_s=0.02,
        then="reset",
    ),
    "error": Reply(200, (frame({"error": {"message": "x"}}), b""), EVENTS),
    "nothing": Reply(200, (b"data: [DONE]\n\n",), EVENTS),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_g133_broken(reply: Reply) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(CHAT, reply)
        answer = await gw.post(ASK, MESSAGES, stream=True)
        name, data = events(answer.text)[-1]
        assert (name, data["error"]["type"]) == ("error", "api_error")
        assert "message_stop" not in answer.text
        await settle(lambda: bool(gw.outcomes))
        if reply.then == "reset":
            assert gw.outcomes[0]["outcome"] == "upstream_error"
            assert gw.metric("cortex_request_errors_total")


async def test_g163_a_stream_that_is_none_costs_nothing() -> None:
    keys = (key("sk-good", "a", "k", hard_cap=1000),)
    async with mock_neuron() as mock, front(mock, keys=keys) as gw:
        answer = await gw.post(ASK, MESSAGES, {"x-api-key": "sk-good"}, stream=True)
        assert mock.seen(CHAT)[0].json["stream"] is True  # what it answers is no stream
        assert (answer.status_code, answer.json()["error"]["type"]) == (502, "api_error")
        await settle(lambda: bool(gw.outcomes))
        budget = await gw.spent("a", "k")
        assert (budget.spent, budget.reserved) == (0, 0)


async def test_g133_stalled() -> None:
    part = frame({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}}]})
    async with mock_neuron() as mock, front(mock, proxy={"idle_timeout_secs": 0.3}) as gw:
        mock.on(CHAT, Reply(200, (part, part), EVENTS, then="silence"))
        answer = await gw.post(ASK, MESSAGES, stream=True)
        name, data = events(answer.text)[-1]
        assert (name, data["error"]["message"]) == ("error", "upstream stream ended unexpectedly")
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "timeout"


async def test_g134_ping() -> None:
    comments = [b":\n\n"] * 10
    part = frame({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}}]})
    async with mock_neuron() as mock, front(mock) as gw:
        gw.state.ping_s = 0.2
        mock.on(CHAT, Reply(200, (*comments, part, b"data: [DONE]\n\n"), EVENTS, pause_s=0.06))
        answer = await gw.post(ASK, MESSAGES, stream=True)
        names = [name for name, _ in events(answer.text)]
        assert names.index("message_start") in (2, 3)
        assert set(names[: names.index("message_start")]) == {"ping"}
        assert names[-1] == "message_stop"


async def test_g138_count_tokens() -> None:
    catalogue = Catalogue(profiles={"cold": Profile("cold")})
    async with mock_neuron(loading([9000])) as mock, front(mock, catalogue=catalogue) as gw:
        mock.on("POST /tokenize", as_json({"count": 17, "tokens": []}))
        answer = await gw.post(ASK, COUNT)
        assert answer.json() == {"input_tokens": 17}
        assert answer.headers["x-helexa-token-count"] == "exact"
        assert mock.seen("POST /tokenize")[0].json["add_generation_prompt"] is True
        mock.on("POST /tokenize", as_json({"error": "no such route"}, 404))
        without = {"model": "test-model", "messages": ASK["messages"]}
        for body in (without, without | {"model": "cold"}):
            answer = await gw.post(body, COUNT)
            assert (answer.status_code, answer.headers["x-helexa-token-count"]) == (
                200,
                "estimated",
            )
            assert answer.json() == {"input_tokens": 2}
        assert mock.count("POST /models/load") == 0
        answer = await gw.post(ASK | {"model": "nope"}, COUNT)
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert gw.metric("cortex_requests_total") == []


async def test_g139_context() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        gw.entry().limit = Limit(context=50, output=16)
        body = ASK | {"messages": [{"role": "user", "content": "word " * 240}]}
        answer = await gw.post(body, MESSAGES)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "prompt is too long: 302 tokens > 50 maximum"
        assert mock.hits == 0


async def test_g111_cors_is_on_errors_too() -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        answer = await gw.post(ASK | {"model": "nope"}, MESSAGES)
        assert answer.headers["access-control-allow-origin"] == "*"


EARLY: dict[str, tuple[bytes, ...]] = {
    "no end": (frame({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}}]}), b""),
    "nothing": (b"data: [DONE]\n\n",),
}


@pytest.mark.parametrize("parts", EARLY.values(), ids=EARLY)
async def test_a_stream_that_ends_early_did_not_end_well(parts: tuple[bytes, ...]) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(CHAT, Reply(200, tuple(part for part in parts if part), EVENTS))
        answer = await gw.post(ASK, MESSAGES, stream=True)
        assert events(answer.text)[-1][0] == "error"
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "upstream_error"
        (line,) = gw.metric("cortex_request_errors_total")
        assert line.endswith(" 1")


async def test_g163_a_malformed_answer_costs_nothing() -> None:
    keys = (key("sk-good", "a", "k", hard_cap=1000),)
    async with mock_neuron() as mock, front(mock, keys=keys) as gw:
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        mock.on(CHAT, as_json({"choices": [], "usage": usage}))
        answer = await gw.post(ASK, MESSAGES, {"x-api-key": "sk-good"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (502, "api_error")
        await settle(lambda: bool(gw.outcomes))
        budget = await gw.spent("a", "k")
        assert (budget.spent, budget.reserved) == (0, 0)
        assert gw.metric("cortex_request_errors_total")
