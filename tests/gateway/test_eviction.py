"""Models that leave, so that others have their place."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.eviction import evict_lru_on_node, make_room
from helexa.gateway.fleet import Entry
from helexa.gateway.memory import free_mb
from helexa.gateway.refusals import EvictionFailed
from tests.gateway.fleets import TIERS, Clock, catalogue, gateway, loaded, node, readings
from tests.gateway.mock_setups import HEALTH, loading
from tests.gateway.mocks import MockNeuron, Reply, Seen, as_json, gone, mock_neuron

pytestmark = pytest.mark.anyio

NODE, UNLOAD = "mock-node", "POST /models/unload"
NEW = Profile("new", vram_mb=8_000)


def used(**seconds_ago: float) -> dict[str, Entry]:
    """Loaded models, by when they were last used."""
    return {
        name: Entry(name, vram_estimate_mb=8_000, last_accessed=1000.0 - ago, devices=(0,))
        for name, ago in seconds_ago.items()
    }


def unloaded(mock: MockNeuron) -> list[str]:
    """What was unloaded, oldest first."""
    return [seen.json["model_id"] for seen in mock.seen(UNLOAD)]


async def test_g052_evict_lru() -> None:
    async with mock_neuron() as mock, gateway(mock, clock=Clock()) as state:
        found = state.fleet.nodes[NODE]
        found.entries = used(**{"old-model": 7200.0, "new-model": 0.0})
        found.endpoints["old-model"] = ("http://x", 1e9)
        assert await evict_lru_on_node(state, NODE, None) == "old-model"
        assert unloaded(mock) == ["old-model"]
        assert {name: entry.status for name, entry in found.entries.items()} == {
            "old-model": "unloaded",
            "new-model": "loaded",
        }
        assert (found.lifecycle_cycles, found.endpoints) == (1, {})
        line = 'cortex_evictions_total{model="old-model",node="mock-node"} 1'
        assert line in state.metrics.text().decode()


async def test_g053_evict_nothing() -> None:
    async with mock_neuron() as mock, gateway(mock) as state:
        state.fleet.nodes[NODE].entries = {}
        assert await evict_lru_on_node(state, NODE, None) is None
        with pytest.raises(EvictionFailed, match=r"^node 'nowhere' not found$"):
            await evict_lru_on_node(state, "nowhere", None)
        assert mock.requests == []


@pytest.mark.parametrize(
    ("residents", "incoming", "victim"),
    [
        ({"mid": 1.0}, "image", "mid"),
        ({"flagship": 9999.0}, "image", None),
        ({"flagship": 1.0}, "frontier", "flagship"),
        ({"flagship": 9999.0, "mid": 60.0}, "image", "mid"),
        ({"image": 1.0}, "mid", "image"),
        ({"mid": 1.0, "tiny": 1.0}, None, "tiny"),
    ],
    ids="mid_by_image no_flagship flagship_by_peer mid_only image_by_mid by_nobody".split(),
)
async def test_g054_tiered(
    residents: dict[str, float], incoming: str | None, victim: str | None
) -> None:
    async with (
        mock_neuron() as mock,
        gateway(mock, catalogue=Catalogue(TIERS), clock=Clock()) as state,
    ):
        state.fleet.nodes[NODE].entries = used(**residents)
        assert await evict_lru_on_node(state, NODE, incoming) == victim
        assert unloaded(mock) == ([victim] if victim else [])


def refusing(status: int, *stubborn: str) -> Any:
    """An unload that some models refuse."""

    async def answer(seen: Seen) -> Reply:
        if seen.json["model_id"] in stubborn:
            return as_json({"error": "in use"}, status)
        return as_json({"status": "unloaded"})

    return answer


async def test_g056_evict_busy_409() -> None:
    async with mock_neuron() as mock, gateway(mock, clock=Clock()) as state:
        found = state.fleet.nodes[NODE]
        mock.on(UNLOAD, refusing(409, "a"))
        found.entries = used(a=9.0, b=5.0)
        assert await evict_lru_on_node(state, NODE, None) == "b"
        assert (unloaded(mock), found.entries["a"].status) == (["a", "b"], "loaded")
        with pytest.raises(EvictionFailed, match=r"^eviction failed: 409 .*in use"):
            await evict_lru_on_node(state, NODE, None)
        assert found.lifecycle_cycles == 1


async def test_another_refusal_ends_it() -> None:
    async with mock_neuron() as mock, gateway(mock, clock=Clock()) as state:
        found = state.fleet.nodes[NODE]
        mock.on(UNLOAD, refusing(500, "a"))
        found.entries = used(a=9.0, b=5.0)
        with pytest.raises(EvictionFailed, match=r"^eviction failed: 500 .*in use"):
            await evict_lru_on_node(state, NODE, None)
        found.endpoint = gone()
        with pytest.raises(EvictionFailed, match=r"^eviction failed: "):
            await evict_lru_on_node(state, NODE, None)
        assert all(entry.status == "loaded" for entry in found.entries.values())


async def test_the_listed_id_is_unloaded() -> None:
    async with mock_neuron() as mock, gateway(mock) as state:
        state.fleet.nodes[NODE].entries["test-model"].listed_id = "zz:test-model"
        assert await evict_lru_on_node(state, NODE, None) == "test-model"
        assert unloaded(mock) == ["zz:test-model"]


async def test_many_unloads_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with mock_neuron() as mock, gateway(mock, eviction={"defrag_after_cycles": 2}) as state:
        state.fleet.nodes[NODE].entries = loaded("a", "b")
        for warnings in (0, 1):
            await evict_lru_on_node(state, NODE, None)
            told = [r for r in caplog.records if "VRAM fragmentation threshold" in r.message]
            assert len(told) == warnings
            assert all(r.levelno == logging.WARNING for r in told)


async def test_g057_one_suffices() -> None:
    async with (
        mock_neuron(loading([0])) as mock,
        gateway(
            node(endpoint=mock.url, free_mb=(0,), entries=used(a=9.0, b=5.0)),
            catalogue=catalogue(NEW),
            clock=Clock(),
        ) as state,
    ):
        found = state.fleet.nodes[NODE]
        await make_room(state, found, NEW)
        assert unloaded(mock) == ["a"]
        assert free_mb(found, 0, state.clock()) == 8_000
        assert found.device_health[0].vram_free_mb == 0


@pytest.mark.parametrize(
    ("free", "fits"), [((24_000, 24_000), True), ((24_000, 20_000), False)], ids=["fits", "short"]
)
async def test_g051_nothing_is_evicted_for_what_fits(free: tuple[int, int], fits: bool) -> None:
    profile = Profile("big", vram_mb=45_000, min_devices=2)
    async with (
        mock_neuron(loading(free)) as mock,
        gateway(
            node(endpoint=mock.url, free_mb=free, entries=used(a=9.0)), catalogue=catalogue(profile)
        ) as state,
    ):
        await make_room(state, state.fleet.nodes[NODE], profile)
        assert unloaded(mock) == ([] if fits else ["a"])


async def test_an_old_reading_evicts_nothing() -> None:
    async with (
        mock_neuron(loading([9_000])) as mock,
        gateway(
            node(endpoint=mock.url, free_mb=(0,), entries=used(a=9.0)), catalogue=catalogue(NEW)
        ) as state,
    ):
        await make_room(state, state.fleet.nodes[NODE], NEW)
        assert unloaded(mock) == []


async def test_at_most_three_go_and_only_from_where_it_helps() -> None:
    profile = Profile("new", vram_mb=30_000, min_device_vram_mb=20_000)
    async with (
        mock_neuron(loading([0, 0])) as mock,
        gateway(
            node(endpoint=mock.url, free_mb=(0, 0)), catalogue=catalogue(profile), clock=Clock()
        ) as state,
    ):
        found = state.fleet.nodes[NODE]
        mock.devices = {0: (32_000, 0), 1: (10_000, 0)}
        assert found.discovery is not None
        small = replace(found.discovery.devices[1], vram_total_mb=10_000)
        devices = (found.discovery.devices[0], small)
        found.discovery = replace(found.discovery, devices=devices)
        found.entries = used(a=9.0, b=8.0, c=7.0, d=6.0, e=5.0)
        found.entries["a"].devices = (1,)
        await make_room(state, found, profile)
        assert unloaded(mock) == ["b", "c", "d"]


async def test_what_nobody_knows_is_waited_for() -> None:
    asked = 0

    async def health(_: Seen) -> Reply:
        nonlocal asked
        asked += 1
        free = 8_000 if asked > 4 else 100
        device = {"index": 0, "vram_used_mb": 0, "vram_free_mb": free}
        return as_json(HEALTH | {"devices": [device]})

    async with (
        mock_neuron(loading([0])) as mock,
        gateway(
            node(endpoint=mock.url, free_mb=(100,), entries=loaded("a", "b", vram_mb=None)),
            catalogue=catalogue(NEW),
        ) as state,
    ):
        mock.on("GET /health", health)
        await make_room(state, state.fleet.nodes[NODE], NEW, pause_s=0.01)
        assert (unloaded(mock), asked) == (["a"], 5)
        state.fleet.nodes[NODE].device_health = readings(100)
        mock.on("GET /health", as_json({}, 500))
        await make_room(state, state.fleet.nodes[NODE], NEW, pause_s=0.01)
        assert unloaded(mock) == ["a", "b"]
