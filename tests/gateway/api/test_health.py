"""How the fleet is said to be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from helexa.gateway.api.health import fleet_health, health
from helexa.gateway.fleet import Entry
from helexa.gateway.state import State
from helexa.http import Router, serving
from helexa.protocol.control import Servable
from tests.gateway.fleets import SQ, gateway, loaded, node
from tests.http.wire import ask

pytestmark = pytest.mark.anyio


@pytest.fixture
async def state() -> AsyncIterator[State]:
    async with gateway(node(entries=loaded("test-model"))) as state:
        yield state


async def test_g025_health(state: State) -> None:
    router = Router()
    router.add("GET", "/health", health(state))
    router.add("GET", "/", health(state))
    async with serving(router) as server:
        for path in ("/health", "/"):
            found = await ask(server, b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
            assert found.status == 200
            assert found.header("content-type") == "application/json"
            assert json.loads(found.body) == {
                "status": "ok",
                "nodes": {"healthy": 1, "total": 1},
            }


async def test_g026_impaired(state: State) -> None:
    state.fleet.nodes["mock-node"].entries["test-model"].servable = SQ
    assert fleet_health(state) == {
        "status": "impaired",
        "nodes": {"healthy": 1, "total": 1},
        "unservable": [
            {
                "node": "mock-node",
                "model": "test-model",
                "reason": "insufficient_vram",
                "detail": SQ.detail,
            }
        ],
    }


async def test_g027_degraded(state: State) -> None:
    down = state.fleet.nodes["mock-node"]
    down.healthy = False
    down.entries["test-model"].servable = SQ
    assert fleet_health(state) == {"status": "degraded", "nodes": {"healthy": 0, "total": 1}}
    state.fleet.nodes.clear()
    assert fleet_health(state) == {"status": "degraded", "nodes": {"healthy": 0, "total": 0}}


@pytest.mark.parametrize(
    ("servable", "expected"),
    [(None, None), (Servable(ok=True), None), (SQ, "insufficient_vram")],
    ids=["absent", "ok", "unservable"],
)
async def test_g028_servable(state: State, servable: Servable | None, expected: str | None) -> None:
    entry = state.fleet.nodes["mock-node"].entries["test-model"]
    entry.servable = servable
    assert entry.can_serve is (expected is None)
    told = [each["reason"] for each in fleet_health(state).get("unservable", [])]
    assert told == ([] if expected is None else [expected])


async def test_a_name_that_is_half_a_character_harms_nobody(state: State) -> None:
    node = state.fleet.nodes["mock-node"]
    node.entries["bad\ud800"] = Entry("bad\ud800", servable=Servable(ok=False))
    router = Router()
    router.add("GET", "/health", health(state))
    async with serving(router) as server:
        found = await ask(server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert json.loads(found.body)["unservable"] == [
        {"node": "mock-node", "model": "bad\ud800", "reason": None, "detail": None}
    ]
