"""Models that nobody has loaded, asked for through the front door: what clients get, and when."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.eviction import evict_lru_on_node
from helexa.gateway.fleet import Entry
from helexa.gateway.poller import poll_once
from tests.gateway.fleets import Clock, catalogue
from tests.gateway.front import BODY, CHAT_PATH, Front, front
from tests.gateway.mock_setups import EVENTS, chunk, frame, loading
from tests.gateway.mocks import CHAT, MockNeuron, Reply, Seen, as_json, mock_neuron, model
from tests.http.wire import connected, post, settle

pytestmark = pytest.mark.anyio

M, LOAD, MESSAGES = "test-model", "POST /models/load", "/v1/messages"
KNOWN = catalogue(Profile(M, vram_mb=1_000))
BOTH = pytest.mark.parametrize("path", [CHAT_PATH, MESSAGES])


@dataclass
class Gate:
    """Loads, or chats, that end when the test says so."""

    open: anyio.Event = field(default_factory=anyio.Event)

    def loads(self, mock: MockNeuron) -> None:
        """A setup: loads wait."""

        async def load(seen: Seen) -> Reply:
            await self.open.wait()
            mock.models.append(model(seen.json["model_id"]))
            return as_json({"status": "loaded"})

        mock.on(LOAD, load)

    def streams(self, mock: MockNeuron) -> None:
        """A setup: chats wait, and then are a short stream."""

        async def chat(seen: Seen) -> Reply:
            await self.open.wait()
            said = {"index": 0, "delta": {"content": mock.url}, "finish_reason": None}
            return Reply(200, (frame(chunk(M, [said])), b"data: [DONE]\n\n"), EVENTS)

        mock.on(CHAT, chat)


@asynccontextmanager
async def cold(*mocks: MockNeuron, known: Catalogue = KNOWN, **more: Any) -> AsyncIterator[Front]:
    """A gateway that has looked once at neurons n1, n2, …"""
    urls = {f"n{i}": mock.url for i, mock in enumerate(mocks, 1)}
    async with front(urls, seeded=False, catalogue=known, **more) as gw:
        await poll_once(gw.state)
        yield gw


async def asked(gw: Front, path: str = CHAT_PATH, name: str = M) -> httpx.Response:
    return await gw.post({"model": name, "max_tokens": 9, "messages": BODY["messages"]}, path)


def told(answer: httpx.Response) -> tuple[int, str | None, str, str]:
    """Status, Retry-After, code and message; the same in both dialects."""
    error = answer.json()["error"]
    wait = answer.headers.get("retry-after")
    return answer.status_code, wait, error["code"], error["message"]


async def test_g044_own_load() -> None:
    gate = Gate()
    async with (
        mock_neuron(gate.streams) as a,
        mock_neuron(gate.streams) as b,
        front({"node-a": a.url, "node-b": b.url}) as gw,
        anyio.create_task_group() as tasks,
    ):
        answers: list[httpx.Response] = []

        async def one() -> None:
            answers.append(await gw.post(stream=True))

        for _ in range(4):
            tasks.start_soon(one)
        await settle(lambda: (a.hits, b.hits) == (2, 2))
        gate.open.set()
        await settle(lambda: len(answers) == 4)
        assert all("[DONE]" in answer.text for answer in answers)
        assert sum(a.url in answer.text for answer in answers) == 2


async def test_g058_load_body() -> None:
    profile = Profile("o/m", quant="q6k", min_devices=2, source="helexa")
    known = Catalogue({"o/m": profile}, {"short": "o/m"})
    async with mock_neuron(loading([9, 9, 9])) as mock, cold(mock, known=known) as gw:
        answer = await asked(gw, name="o/m")
        assert (answer.status_code, answer.json()["model"]) == (200, "helexa:o/m")
        (sent,) = mock.seen(LOAD)
        assert sent.json == {
            **{"model_id": "helexa:o/m", "harness": "candle", "quant": "q6k"},
            **{"tensor_parallel": 2, "devices": [0, 1]},
        }
        (looked_up,) = mock.seen("GET /models/{id}/endpoint")
        assert looked_up.path == "/models/helexa%3Ao%2Fm/endpoint"
        assert (await asked(gw, MESSAGES, "short")).status_code == 200
        assert (await asked(gw, name="o/m")).status_code == 200
        assert [seen.json["model"] for seen in mock.seen(CHAT)] == ["helexa:o/m"] * 3
        assert mock.count(LOAD) == 1
        await settle(lambda: len(gw.outcomes) == 3)
        lines = [(line["model"], line["cold_start"]) for line in gw.outcomes]
        assert lines == [("o/m", True), ("o/m", False), ("o/m", False)]


async def test_g059_single_flight() -> None:
    gate = Gate()
    async with (
        mock_neuron(loading([32_000]), gate.loads) as mock,
        cold(mock) as gw,
        anyio.create_task_group() as tasks,
    ):
        statuses: list[int] = []

        async def one() -> None:
            statuses.append((await asked(gw)).status_code)

        for _ in range(20):
            tasks.start_soon(one)
        await settle(lambda: gw.server.running == 20 and mock.count(LOAD) == 1)
        gate.open.set()
        await settle(lambda: len(statuses) == 20)
        assert statuses == [200] * 20
        assert (mock.count(LOAD), mock.hits) == (1, 20)
        assert gw.metric("cortex_cold_starts_total")[0].endswith(" 20")


async def test_g060_a_load_outlives_its_client() -> None:
    gate = Gate()
    async with mock_neuron(loading([32_000]), gate.loads) as mock, cold(mock) as gw:
        async with connected(gw.server) as peer:
            await peer.send(post(json.dumps(BODY).encode(), path=CHAT_PATH))
            await settle(lambda: mock.count(LOAD) == 1)
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "client_gone"
        gate.open.set()
        await settle(lambda: M in gw.node("n1").entries)
        assert (await asked(gw)).status_code == 200
        assert (mock.count(LOAD), mock.hits) == (1, 1)


async def test_g061_failover() -> None:
    async with (
        mock_neuron(loading([32_000], status=500)) as first,
        mock_neuron(loading([16_000])) as second,
        cold(first, second) as gw,
    ):
        gw.state.clock = clock = Clock()
        answer = await asked(gw)
        assert (answer.status_code, second.hits) == (200, 1)
        assert (first.count(LOAD), second.count(LOAD)) == (1, 1)
        assert 'node="n2"' in gw.metric("cortex_requests_total")[0]
        second.models.clear()
        second.on(LOAD, as_json({"error": "no"}, 500))
        await poll_once(gw.state)
        clock.now += 29
        status, wait, code, message = told(await asked(gw))
        assert (status, wait, code) == (503, "30", "service_unavailable")
        assert message == "cold-load of 'test-model' on 'n2' failed: HTTP 500: {\"error\":\"no\"}"
        assert (first.count(LOAD), second.count(LOAD)) == (1, 2)
        clock.now += 2  # the first one is tried again, the second is left alone
        assert told(await asked(gw))[0] == 503
        assert (first.count(LOAD), second.count(LOAD)) == (2, 2)


@BOTH
async def test_g062_refused(path: str) -> None:
    async with mock_neuron(loading([32_000], status=422)) as mock, cold(mock) as gw:
        for _ in range(2):
            status, wait, code, message = told(await asked(gw, path))
            assert (status, wait, code) == (404, None, "service_unavailable")
            assert message == (
                "cold-load of 'test-model' on 'n1' failed: HTTP 422: {\"error\":\"no\"}"
            )
        assert (mock.count(LOAD), mock.hits) == (1, 0)


async def test_g062_already_loaded() -> None:
    async with mock_neuron(loading([32_000])) as mock, cold(mock) as gw:
        mock.on(LOAD, as_json({"error": f"model '{M}' already loaded"}, 400))
        assert (await asked(gw)).status_code == 200


@BOTH
async def test_g063_recovering(path: str) -> None:
    async with (
        mock_neuron() as ill,
        mock_neuron(loading([32_000])) as free,
        cold(ill, free) as gw,
    ):
        ill.models = [model(M, "recovering")]
        await poll_once(gw.state)
        status, wait, code, message = told(await asked(gw, path))
        assert (status, wait, code) == (503, "2", "service_unavailable")
        assert message == (
            "model 'test-model' is recovering on node 'n1' (device context rebuild in progress) "
            "— retry shortly"
        )
        assert (ill.count(LOAD), free.count(LOAD), ill.hits) == (0, 0, 0)
        listed = (await gw.http.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == [M]


@BOTH
async def test_g065_wait_deadline(path: str) -> None:
    gate, patience = Gate(), {"wait_secs": 0.1}
    async with (
        mock_neuron(loading([32_000]), gate.loads) as mock,
        cold(mock, cold_load=patience) as gw,
    ):
        status, wait, code, message = told(await asked(gw, path))
        assert (status, wait, code) == (503, "10", "service_unavailable")
        assert message == "model 'test-model' is still loading on node 'n1' — retry shortly"
        gate.open.set()
        await settle(lambda: M in gw.node("n1").entries)
        assert (await asked(gw, path)).status_code == 200
        assert mock.count(LOAD) == 1


async def test_g066_slow_load() -> None:
    """The limit of a head is about the head of an answer, not about a load before it."""
    limits = {"first_byte_timeout_secs": 1.0, "non_stream_timeout_secs": 1.0}
    async with (
        mock_neuron(loading([32_000], delay_s=1.2)) as mock,
        cold(mock, proxy=limits) as gw,
    ):
        assert (await asked(gw)).status_code == 200


async def test_g068_after_eviction() -> None:
    async with mock_neuron(loading([32_000])) as mock, cold(mock) as gw:
        assert (await asked(gw)).status_code == 200
        assert await evict_lru_on_node(gw.state, "n1", None) == M
        assert (await asked(gw)).status_code == 200
        assert (mock.count("POST /models/unload"), mock.count(LOAD)) == (1, 2)


BIG = Profile("big-model", min_devices=2, vram_mb=10)
REFUSED = "is feasible on a neuron that is currently unhealthy — retry shortly"
NEVER = "is in the catalogue but no healthy neuron's topology satisfies its constraints"


@BOTH
async def test_g047_g048_g049_where_it_could_be(path: str) -> None:
    async with AsyncExitStack() as stack:
        small, big = [
            await stack.enter_async_context(mock_neuron(loading([9_000] * n))) for n in (1, 2)
        ]
        gw = await stack.enter_async_context(cold(small, big, known=catalogue(BIG)))
        node = gw.node("n2")
        node.entries["uncatalogued"] = Entry("uncatalogued")
        node.healthy = False
        for name in ("big-model", "uncatalogued"):
            status, wait, code, message = told(await asked(gw, path, name))
            assert (status, wait, code) == (503, "3", "service_unavailable")
            assert message == f"model '{name}' {REFUSED}"
        del gw.state.fleet.nodes["n2"]
        status, wait, code, message = told(await asked(gw, path, "big-model"))
        assert (status, wait, code) == (404, None, "service_unavailable")
        assert message == f"model 'big-model' {NEVER}"
        assert (small.hits, big.hits, small.count(LOAD), big.count(LOAD)) == (0, 0, 0, 0)
