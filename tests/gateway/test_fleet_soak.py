"""Neurons that fail at random, clients that leave at random: afterwards nothing is left over."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import anyio
import pytest

from helexa.errors import HelexaError
from helexa.gateway.catalogue import Profile
from helexa.gateway.endpoints import endpoint_url
from helexa.gateway.poller import poll_once, poll_soon, watch
from helexa.gateway.router import resolve
from helexa.gateway.state import State
from tests.gateway.fleets import catalogue, gateway, host
from tests.gateway.mock_setups import loading
from tests.gateway.mocks import RESET, SILENT, MockNeuron, Reply, Seen, as_json, mock_neuron, model
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

MODELS = ("a", "b", "c")
REQUESTS = 60


def moody(mock: MockNeuron, random: Random) -> None:
    """Loads and unloads that work, fail, break off or never end."""

    async def load(seen: Seen) -> Reply:
        await anyio.sleep(random.random() * 0.02)
        mood = random.random()
        if mood < 0.6:
            mock.models = [entry for entry in mock.models if entry["id"] != seen.json["model_id"]]
            mock.models.append(model(seen.json["model_id"], random.choice(["loaded", "loading"])))
            return as_json({"status": "loaded"})
        return random.choice([RESET, SILENT, as_json({"error": "no"}, random.choice([422, 500]))])

    async def unload(seen: Seen) -> Reply:
        if random.random() < 0.5:
            mock.models = [entry for entry in mock.models if entry["id"] != seen.json["model_id"]]
            return as_json({"status": "unloaded"})
        return as_json({"error": "in use"}, random.choice([404, 409]))

    async def models(seen: Seen) -> Reply:
        return as_json(mock.models) if random.random() < 0.8 else as_json({}, 500)

    mock.on("POST /models/load", load)
    mock.on("POST /models/unload", unload)
    mock.on("GET /models", models)


async def ask(state: State, random: Random) -> None:
    """One client, which may leave at any time."""
    with anyio.move_on_after(random.random() * 0.3):
        await anyio.sleep(random.random() * 0.3)
        with suppress(HelexaError):
            route = await resolve(state, random.choice(MODELS))
            route.node.arrives(route.model)
            try:
                await endpoint_url(state, route.node, route.model)
                await anyio.sleep(random.random() * 0.02)
                if random.random() < 0.2:
                    route.node.drop(route.model)
                    poll_soon(state, route.node)
            finally:
                route.node.leaves(route.model)


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_is_left_over(seed: int) -> None:
    random = Random(seed)
    profiles = [Profile(name, vram_mb=20_000) for name in MODELS]
    limits = {"timeout_secs": 0.1, "wait_secs": 0.2, "backoff_secs": 0.05}
    async with (
        mock_neuron(loading([30_000])) as one,
        mock_neuron(loading([30_000])) as two,
        gateway(
            *(host(one, "n1"), host(two, "n2")),
            catalogue=catalogue(*profiles),
            cold_load=limits,
            poller={"interval_secs": 0.05, "timeout_secs": 0.1, "failure_threshold": 2},
        ) as state,
    ):
        for mock in (one, two):
            moody(mock, random)
        nodes = state.fleet.nodes.values()
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch, state)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    for _ in range(REQUESTS):
                        tasks.start_soon(ask, state, random)
                await settle(lambda: not any(node.loading for node in nodes))
            watching.cancel_scope.cancel()
        assert all(node.own == {} for node in nodes)
        for mock in (one, two):
            loading([30_000])(mock)
            mock.on("GET /models", as_json([]))
        for node in nodes:
            node.backoff.clear()
        await poll_once(state)
        assert (await resolve(state, "a")).node.healthy
