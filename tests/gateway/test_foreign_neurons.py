"""Neurons that others have written, of another age or in a bad way, seen through the front door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.poller import poll_once
from tests.gateway.fleets import Clock, catalogue
from tests.gateway.front import BODY, CHAT_PATH, Front, front
from tests.gateway.mock_setups import chunk, frame, loading, refusing, reporting
from tests.gateway.mocks import CHAT, MockNeuron, Reply, Seen, as_json, mock_neuron

pytestmark = pytest.mark.anyio

M, LOAD = "test-model", "POST /models/load"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
ASK: dict[str, Any] = {"model": M, "max_tokens": 9, "messages": BODY["messages"]}
KNOWN = catalogue(Profile(M))
GIVEN_UP = {"ok": False, "reason": "poisoned", "detail": "given up"}
BOTH = pytest.mark.parametrize("path", [CHAT_PATH, MESSAGES])


def plain(id: str = M, status: str = "loaded", **facts: Any) -> dict[str, Any]:
    """What a neuron of the first age lists."""
    return {"id": id, "harness": "candle", "status": status, "devices": [0]} | facts


def old(mock: MockNeuron) -> None:
    """A setup: a neuron that knows nothing of what came later; it streams and it does not."""
    device = {"index": 0, "name": "GPU", "vram_total_mb": 24_000, "compute_capability": "8.6"}
    host = {"hostname": "old", "os": "Fedora", "kernel": "6.1", "devices": [device]}
    reading = {"index": 0, "vram_used_mb": 9_000, "vram_free_mb": 15_000}
    health = {"uptime_secs": 42, "devices": [reading | {"utilization_pct": 3, "temp_c": 50}]}

    async def chat(seen: Seen) -> Reply:
        if not seen.json.get("stream"):
            return whole if isinstance(whole, Reply) else await whole(seen)
        said = {"index": 0, "delta": {"role": "assistant", "content": "Hello"}}
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        frames = [frame(chunk(M, [choice])) for choice in (said, last)]
        events = (("content-type", "text/event-stream"),)
        return Reply(200, (*frames, b"data: [DONE]\n\n"), events)

    whole = mock.routes[CHAT]
    mock.models = [plain(vram_used_mb=None)]
    mock.on("GET /discovery", as_json(host | {"harnesses": ["candle"]}))
    mock.on("GET /health", as_json(health))
    mock.on(CHAT, chat)


@asynccontextmanager
async def seen_through(*mocks: MockNeuron, known: Catalogue | None = None) -> AsyncIterator[Front]:
    """A gateway that has looked at neurons n1, n2, … once."""
    urls = {f"n{i}": mock.url for i, mock in enumerate(mocks, 1)}
    async with front(urls, seeded=False, catalogue=known) as gw:
        await poll_once(gw.state)
        yield gw


def told(answer: httpx.Response) -> tuple[int, str | None, str]:
    """Status, Retry-After, and what the message says of the model."""
    message = answer.json()["error"]["message"].removeprefix(f"model '{M}' ")
    return answer.status_code, answer.headers.get("retry-after"), message


async def test_a_neuron_of_the_first_age() -> None:
    async with mock_neuron(old) as mock, seen_through(mock) as gw:
        assert (await gw.http.get("/health")).json()["status"] == "ok"
        (entry,) = (await gw.http.get("/v1/models")).json()["data"]
        place = {"node": "n1", "status": "loaded", "vram_estimate_mb": None}
        assert (entry["id"], entry["locations"], entry["capabilities"]) == (M, [place], [])
        assert not entry.keys() & {"limit", "cost", "max_model_len"}

        assert (await gw.post()).json()["choices"][0]["message"]["content"]
        assert (await gw.post(stream=True)).text.endswith("data: [DONE]\n\n")
        answer = await gw.post({"model": M, "input": "Hi"}, "/v1/responses")
        assert answer.json()["status"] == "completed"
        answer = await gw.post(ASK, MESSAGES)
        assert answer.json()["content"] == [{"type": "text", "text": "Hello from mock backend"}]
        streamed = (await gw.post(ASK, MESSAGES, stream=True)).text
        assert streamed.count('"text":"Hello"') == 1 and "event: message_stop" in streamed

        answer = await gw.post(ASK, COUNT)
        assert (answer.status_code, answer.headers["x-helexa-token-count"]) == (200, "estimated")
        assert answer.json()["input_tokens"] > 0
        before = mock.count("GET /discovery")
        await poll_once(gw.state)  # it may have learnt how long a prompt may be
        assert mock.count("GET /discovery") == before + 1
        assert gw.metric("cortex_device_vram_free_mb")[0].endswith(" 15000")
        assert gw.metric("cortex_model_in_flight") == []


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_g138_a_neuron_that_does_not_count(status: int) -> None:
    async with mock_neuron(old) as mock, seen_through(mock) as gw:
        mock.on("POST /tokenize", as_json({"error": "no"}, status))
        answer = await gw.post(ASK, COUNT)
        assert (answer.status_code, answer.headers["x-helexa-token-count"]) == (200, "estimated")
        assert (mock.count("POST /tokenize"), mock.hits) == (1, 0)


async def test_g035_an_old_word_of_how_busy_it_is() -> None:
    load = {"id": M, "in_flight": 1, "queue_depth": 3}
    async with mock_neuron(old) as busy, mock_neuron(old) as idle, seen_through(busy, idle) as gw:
        busy.on("GET /health", as_json({"uptime_secs": 42, "devices": [], "models": [load]}))
        await poll_once(gw.state)
        assert (await gw.post()).status_code == 200
        assert (busy.hits, idle.hits) == (0, 1)
        assert gw.metric("cortex_model_queue_depth")[0].endswith(" 3")
        assert gw.metric("cortex_model_max_in_flight") == []


STATUSES: dict[str, tuple[dict[str, Any], Catalogue | None, tuple[int, str | None, str]]] = {
    "recovering": (
        plain(status="recovering"),
        KNOWN,
        (
            *(503, "2"),
            "is recovering on node 'n1' (device context rebuild in progress) — retry shortly",
        ),
    ),
    "unknown word": (
        plain(status="frobnicated"),
        None,
        (503, "10", "is still loading on node 'n1' — retry shortly"),
    ),
    "not servable": (
        plain(servable={"ok": False, "reason": "insufficient_vram"}),
        None,
        (
            *(503, "5"),
            "is resident on node 'n1' but cannot be served: insufficient_vram — retry shortly",
        ),
    ),
}


@BOTH
@pytest.mark.parametrize(("listed", "known", "expected"), STATUSES.values(), ids=STATUSES)
async def test_g034_what_a_status_means_to_a_client(
    path: str,
    listed: dict[str, Any],
    known: Catalogue | None,
    expected: tuple[int, str | None, str],
) -> None:
    async with mock_neuron(old, loading([9_000])) as mock, seen_through(mock, known=known) as gw:
        mock.models = [listed]
        for _ in range(2):
            await poll_once(gw.state)
            assert told(await gw.post(ASK, path)) == expected
        assert (mock.hits, mock.count(LOAD)) == (0, 0)
        warnings = [r.getMessage() for r in gw.log if "unknown state" in r.getMessage()]
        assert warnings == ["node n1: 'test-model' is in the unknown state 'frobnicated'"] * (
            listed["status"] == "frobnicated"
        )


async def test_g034_a_model_that_its_neuron_gave_up_is_loaded_anew() -> None:
    async with mock_neuron(loading([9_000])) as mock, seen_through(mock, known=KNOWN) as gw:
        mock.models = [plain(status="poisoned", servable=GIVEN_UP)]

        async def load(seen: Seen) -> Reply:
            mock.models[:] = [plain()]
            return as_json({"status": "loaded"})

        mock.on(LOAD, load)
        await poll_once(gw.state)
        assert (await gw.post()).status_code == 200
        assert (mock.count(LOAD), mock.hits) == (1, 1)


@BOTH
@pytest.mark.parametrize("known", [None, KNOWN], ids=["unknown", "catalogued"])
async def test_g064_poisoned_probe(path: str, known: Catalogue | None) -> None:
    """One request in a while wakes it; a 500 says that it is not awake yet."""
    recovering = "is recovering on node 'n1' (device context rebuild in progress) — retry shortly"
    async with mock_neuron(refusing(500)) as mock, seen_through(mock, known=known) as gw:
        gw.state.clock = clock = Clock()
        mock.models = [plain(status="poisoned")]
        await poll_once(gw.state)
        for _ in range(2):
            assert told(await gw.post(ASK, path)) == (503, "2", recovering)
        assert (mock.hits, mock.count(LOAD)) == (1, 0)
        clock.now += 31
        assert told(await gw.post(ASK, path)) == (503, "2", recovering)
        assert mock.hits == 2
        mock.models = [plain()]
        mock.on(CHAT, as_json({}, 500))
        await poll_once(gw.state)
        assert (await gw.post(ASK, path)).status_code == 500  # it is well, and the request is not


async def test_g067_a_neuron_that_has_only_begun() -> None:
    """What it loads at its start is waited for there, however little room it seems to have."""
    warming = {"state": "pre_warming", "pending": [], "in_progress": M}
    setups = loading([100]), reporting([], activation=warming)
    async with (
        mock_neuron(*setups) as begun,
        mock_neuron(loading([32_000])) as free,
        seen_through(begun, free, known=catalogue(Profile(M, vram_mb=1_000))) as gw,
    ):
        assert (await gw.post()).status_code == 200
        assert (begun.count(LOAD), free.count(LOAD), begun.hits) == (1, 0, 1)
