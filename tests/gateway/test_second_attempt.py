"""When a first replica does not take a request: a second one, once, and only while it is safe."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.protocol.control import ModelLoad
from tests.gateway.fleets import Clock
from tests.gateway.front import BODY, CHAT_PATH, Front, front, key
from tests.gateway.mock_setups import EVENTS, loading, refusing, streaming
from tests.gateway.mocks import (
    CHAT,
    RESET,
    MockNeuron,
    Reply,
    Setup,
    as_json,
    gone,
    mock_neuron,
)
from tests.http.wire import connected, post, settle

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/messages"
KEYS = (key("sk-good", "acct-1", "key-1", hard_cap=1_000_000),)
BEARER = {"authorization": "Bearer sk-good"}


@dataclass
class Pair:
    """Two replicas behind a gateway; the first one, `node-a`, is asked first."""

    gw: Front
    a: MockNeuron
    b: MockNeuron


@asynccontextmanager
async def pair(
    first: Setup | str, second: Setup | str = lambda _: None, **more: Any
) -> AsyncIterator[Pair]:
    """Replicas; a text is the URL of one that cannot be reached."""
    async with AsyncExitStack() as stack:
        mocks = [
            await stack.enter_async_context(
                mock_neuron() if isinstance(one, str) else mock_neuron(one)
            )
            for one in (first, second)
        ]
        urls = [
            one if isinstance(one, str) else mock.url
            for one, mock in zip((first, second), mocks, strict=True)
        ]
        gw = await stack.enter_async_context(
            front({"node-a": urls[0], "node-b": urls[1]}, keys=KEYS, **more)
        )
        load = ModelLoad(id="test-model", in_flight=1, queue_depth=0)
        gw.node("node-b").load["test-model"] = load
        yield Pair(gw, *mocks)


async def test_g073_retry_503() -> None:
    async with pair(refusing(503, 6, "rate_limit_exceeded")) as two:
        answer = await two.gw.post(headers=BEARER)
        assert (answer.status_code, two.a.hits, two.b.hits) == (200, 1, 1)
        assert two.gw.metric("cortex_retries_total") == [
            'cortex_retries_total{model="test-model",node="node-a",reason="503"} 1'
        ]
        await settle(lambda: bool(two.gw.outcomes))
        budget = await two.gw.spent("acct-1", "key-1")
        assert (budget.spent, budget.reserved) == (15, 0)
        line = two.gw.outcomes[0]
        assert (line["attempts"], line["node"], line["outcome"]) == (2, "node-b", "ok")


@pytest.mark.parametrize("stream", [False, True])
async def test_g074_retry_429_for_messages(stream: bool) -> None:
    second = streaming(2) if stream else lambda _: None
    async with pair(refusing(429, 2), second) as two:
        body = {"model": "test-model", "max_tokens": 9, "messages": BODY["messages"]}
        answer = await two.gw.post(body, MESSAGES, stream=stream)
        assert (answer.status_code, two.a.hits, two.b.hits) == (200, 1, 1)
        assert ("event: message_stop" in answer.text) == stream


async def test_g075_both_refuse() -> None:
    async with pair(refusing(503, 6), refusing(503, 9)) as two:
        answer = await two.gw.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")
        assert (two.a.hits, two.b.hits) == (1, 1)


async def test_g077_the_second_is_dead() -> None:
    async with pair(refusing(503, 6, "rate_limit_exceeded"), gone()) as two:
        answer = await two.gw.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "6")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


async def test_g078_no_connection() -> None:
    async with pair(gone()) as two:
        answer = await two.gw.post()
        assert (answer.status_code, two.b.hits) == (200, 1)


@pytest.mark.parametrize("known", [False, True], ids=["never asked", "endpoint known"])
async def test_g078_no_connection_and_nobody_else(known: bool) -> None:
    async with front({"mock-node": gone()}) as gw:
        if known:
            gw.node().endpoints["test-model"] = (gw.node().endpoint, gw.state.clock() + 60)
        answer = await gw.post(headers={})
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_connection_error"
        assert answer.json()["error"]["message"] == "upstream request failed"


async def test_g079_never_after_the_request_was_written() -> None:
    async with pair(lambda mock: mock.on(CHAT, RESET)) as two:
        answer = await two.gw.post()
        assert (answer.status_code, two.b.hits) == (502, 0)
        assert two.a.hits == 2  # the first came over a connection that had been used before
    slow: Setup = lambda mock: mock.on(CHAT, as_json({}, pause_s=5))  # noqa: E731  # a table row
    async with pair(slow, proxy={"non_stream_timeout_secs": 0.3}) as two:
        answer = await two.gw.post()
        assert (answer.status_code, two.a.hits, two.b.hits) == (504, 1, 0)


async def test_g080_never_in_mid_stream() -> None:
    part = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    breaking: Setup = lambda mock: mock.on(  # noqa: E731  # a table row
        CHAT, Reply(200, (part, part), EVENTS, pause_s=0.05, then="reset")
    )
    async with pair(breaking) as two, connected(two.gw.server) as peer:
        body = json.dumps(BODY | {"stream": True}).encode()
        await peer.send(post(body, path=CHAT_PATH))
        told = await peer.until(b"\0never\0")
        assert told.count(part) == 2
        assert not told.endswith(b"0\r\n\r\n")
        assert two.b.hits == 0


@pytest.mark.parametrize("status", [500, 400, 404])
async def test_g081_other_answers_stand(status: int) -> None:
    async with pair(refusing(status, None, "something")) as two:
        answer = await two.gw.post()
        assert (answer.status_code, two.b.hits) == (status, 0)
        assert answer.json()["error"]["code"] == "something"


async def test_g082_the_node_no_longer_has_it() -> None:
    async with pair(refusing(404, None, "model_not_found")) as two:
        answer = await two.gw.post()
        assert (answer.status_code, two.b.hits) == (200, 1)
        assert "test-model" not in two.gw.node("node-a").entries


async def test_g082_nobody_has_it_any_more_but_the_catalogue() -> None:
    catalogue = Catalogue(profiles={"test-model": Profile("test-model")})
    async with mock_neuron(loading([9000])) as mock, front(mock, catalogue=catalogue) as gw:
        mock.on("GET /models/{id}/endpoint", as_json({"error": "no"}, 404))

        from helexa.gateway.poller import poll_once

        entry = gw.entry()
        await poll_once(gw.state)
        gw.node().entries["test-model"] = entry

        async def load(_: Any) -> Reply:
            mock.on("GET /models/{id}/endpoint", as_json({"url": mock.url}))
            return as_json({"status": "loaded"})

        mock.on("POST /models/load", load)
        answer = await gw.post()
        assert (answer.status_code, mock.count("POST /models/load")) == (200, 1)
        await settle(lambda: bool(gw.outcomes))
        assert (gw.outcomes[0]["cold_start"], gw.outcomes[0]["attempts"]) == (True, 2)
        assert gw.metric("cortex_cold_starts_total") == [
            'cortex_cold_starts_total{model="test-model",node="mock-node"} 1'
        ]


async def test_g083_our_own_refusal_is_no_reason() -> None:
    poor = (key("sk-poor", "acct-p", "key-p", hard_cap=10),)
    async with mock_neuron() as mock, front(mock, keys=poor) as gw:
        answer = await gw.post(headers={"authorization": "Bearer sk-poor"}, max_tokens=1000)
        assert (answer.status_code, mock.hits) == (429, 0)


@dataclass
class Stalling:
    """A refusal whose body breaks off, or comes to no end."""

    then: str
    status: int
    code: str | None = None

    def __call__(self, mock: MockNeuron) -> None:
        body = json.dumps({"error": {"code": self.code}}).encode()
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body) + 1}\r\n\r\n".encode()
        mock.on(CHAT, Reply(wire=head + body, then=self.then))  # type: ignore[arg-type]  # a str


@pytest.mark.parametrize("status", [503, 404])
async def test_a_client_that_leaves_while_a_refusal_is_read(status: int) -> None:
    """Nobody holds that answer any more, so its connection is closed."""
    async with pair(Stalling("silence", status)) as two:
        async with connected(two.gw.server) as peer:
            await peer.send(post(json.dumps(BODY).encode(), path=CHAT_PATH))
            await settle(lambda: two.a.hits == 1)
            await anyio.sleep(0.05)
        with anyio.fail_after(2):
            await two.a.left.wait()
        await settle(lambda: two.gw.server.connections == 0)
        assert not two.gw.node("node-a").own


async def test_a_refusal_that_breaks_off_is_one() -> None:
    async with pair(Stalling("reset", 503)) as two:
        assert (await two.gw.post()).status_code == 200
        assert (two.a.hits, two.b.hits) == (1, 1)
    async with pair(Stalling("reset", 503), gone()) as two:
        assert (await two.gw.post()).status_code == 502


async def test_an_answer_that_is_kept_took_as_long_as_it_took() -> None:
    """Not as long as the attempt after it, nor with it."""
    clock = Clock()

    def answers_after(seconds: float, route: str, reply: Reply) -> Setup:
        async def answer(_: Any) -> Reply:
            clock.now += seconds
            return reply

        return lambda mock: mock.on(route, answer)

    busy = answers_after(2.0, CHAT, as_json({"error": {"message": "busy"}}, 503))
    lost = answers_after(7.0, "GET /models/{id}/endpoint", as_json({"error": "x"}, 500))
    async with pair(busy, lost) as two:
        two.gw.state.clock = clock
        assert (await two.gw.post()).status_code == 503
        assert (two.a.hits, two.b.hits) == (1, 0)
        (sum_s,) = two.gw.metric("cortex_request_duration_seconds_sum")
        assert 'node="node-a"' in sum_s
        assert float(sum_s.rpartition(" ")[2]) == 2.0
        await settle(lambda: bool(two.gw.outcomes))
        line = two.gw.outcomes[0]
        assert (line["node"], line["attempts"], line["head_ms"]) == ("node-a", 2, 9000)


async def test_a_long_name_is_looked_for_whole() -> None:
    """Also in the second attempt, and although the log has only its beginning."""
    name = "m" * 400
    missing = as_json({"error": {"code": "model_not_found"}}, 404)
    async with pair(lambda mock: mock.on(CHAT, missing)) as two:
        for node in two.gw.state.fleet.nodes.values():
            node.entries[name] = node.entries["test-model"]
            node.entries[name].listed_id = name
        assert (await two.gw.post(model=name)).status_code == 200
        assert (two.a.hits, two.b.hits) == (1, 1)
        await settle(lambda: bool(two.gw.outcomes))
        assert two.gw.outcomes[0]["requested"] == "m" * 200
        answer = await two.gw.post(model="n" * 10_000)
        assert len(answer.json()["error"]["message"]) < 600


async def test_g084_switched_off() -> None:
    async with pair(refusing(503, 6), proxy={"retry": False}) as two:
        answer = await two.gw.post()
        assert (answer.status_code, two.b.hits) == (503, 0)
