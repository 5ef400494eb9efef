"""From a model's name to a node that has it, or is made to have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from helexa.errors import HelexaError
from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.poller import poll_once
from helexa.gateway.refusals import (
    ColdLoadFailed,
    NoHealthyNodes,
    NoServableReplica,
    Recovering,
    UnknownModel,
)
from helexa.gateway.router import another_replica, candidates, require_known, resolve
from helexa.protocol.control import ActivationStatus
from tests.gateway.fleets import SQ, Clock, catalogue, gateway, host, loaded, node, refused
from tests.gateway.mock_setups import loading
from tests.gateway.mocks import mock_neuron

pytestmark = pytest.mark.anyio

M, LOAD = "test-model", "POST /models/load"
PROFILE = Profile(M, vram_mb=1_000)
KNOWN = catalogue(PROFILE)


async def test_g044_own_load() -> None:
    nodes = node("a", entries=loaded(M)), node("b", entries=loaded(M))
    async with gateway(*nodes) as state:
        taken: list[str] = []

        async def one() -> None:
            route = await resolve(state, M)
            route.node.arrives(route.model)
            taken.append(route.node.name)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
        assert sorted(taken) == ["a", "a", "b", "b"]


async def test_g046_nothing_happens_to_what_cannot_serve() -> None:
    entries = {M: Entry(M, servable=SQ)}
    async with mock_neuron(loading([32_000])) as mock:
        for known in (Catalogue(), KNOWN):
            async with gateway(host(mock, entries=entries), catalogue=known) as state:
                await refused(state, NoServableReplica)
        assert mock.requests == []
        assert entries[M].servable == SQ


async def test_g061_failover() -> None:
    clock = Clock()
    async with (
        mock_neuron(loading([32_000], status=500)) as first,
        mock_neuron(loading([16_000])) as second,
        gateway(
            host(first, "n1"), host(second, "n2", free_mb=(16_000,)), catalogue=KNOWN, clock=clock
        ) as state,
    ):
        route = await resolve(state, M)
        assert (route.node.name, route.cold_start) == ("n2", True)
        del state.fleet.nodes["n2"].entries[M]
        state.fleet.nodes["n2"].healthy = False
        clock.now += 29.5
        error = await refused(state, ColdLoadFailed)
        assert (first.count(LOAD), error.status, error.retry_after_s) == (1, 503, 1)
        clock.now += 1
        await refused(state, ColdLoadFailed)
        assert first.count(LOAD) == 2


async def test_g061_all_fail() -> None:
    async with (
        mock_neuron(loading([32_000], status=500)) as mock,
        gateway(
            *(host(mock, name) for name in "abcd"),
            catalogue=KNOWN,
            cold_load={"backoff_secs": 0.0},
        ) as state,
    ):
        error = await refused(state, ColdLoadFailed)
        assert (error.status, error.retry_after_s, error.node) == (503, 1, "c")
        assert mock.count(LOAD) == 3
        assert str(error) == (
            "cold-load of 'test-model' on 'c' failed: HTTP 500: {\"error\":\"no\"}"
        )


async def test_g064_poisoned_probe() -> None:
    entries = {M: Entry(M, "recovering", poisoned=True)}
    clock = Clock()
    async with gateway(node(entries=entries), clock=clock) as state:
        route = await resolve(state, M)
        assert (route.probe, route.entry.poisoned) == (True, True)
        assert (await refused(state, Recovering)).retry_after_s == 2
        clock.now += 30
        assert (await resolve(state, M)).probe


async def test_g067_joins_prewarm() -> None:
    active = ActivationStatus(state="pre_warming", in_progress=M)
    async with (
        mock_neuron(loading([100])) as warming,
        mock_neuron(loading([32_000])) as freer,
        gateway(
            host(warming, "b", free_mb=(100,), activation=active, entries=loaded("other")),
            host(freer, "a"),
            catalogue=catalogue(Profile(M, vram_mb=20_000)),
        ) as state,
    ):
        assert (await resolve(state, M)).node.name == "b"
        assert (warming.count(LOAD), freer.count(LOAD)) == (1, 0)
        assert warming.count("POST /models/unload") == 0


async def test_g070_last_accessed() -> None:
    async with gateway(node(entries=loaded(M)), clock=Clock(7.0)) as state:
        entry = state.fleet.nodes["mock-node"].entries[M]
        assert entry.last_accessed is None
        await resolve(state, M)
        assert entry.last_accessed == 7.0


async def test_other_replicas() -> None:
    nodes = [node(name, entries=loaded(M)) for name in "abc"]
    nodes[0].own[M] = 1
    async with gateway(*nodes, clock=Clock(5.0)) as state:
        assert [route.node.name for route in candidates(state, M)] == ["b", "c", "a"]
        assert [route.node.name for route in candidates(state, M, ("c",))] == ["b", "a"]
        other = another_replica(state, M, "b")
        assert other is not None
        assert (other.node.name, other.entry.last_accessed) == ("c", 5.0)
        for name in "ac":
            state.fleet.nodes[name].healthy = False
        assert another_replica(state, M, "b") is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda node: None, "real"),
        (lambda node: node.entries.clear(), UnknownModel),
        (lambda node: setattr(node, "healthy", False), NoHealthyNodes),
        (lambda node: setattr(node.entries["real"], "status", "loading"), "real"),
    ],
    ids="loaded unknown down loading".split(),
)
async def test_known_models(
    change: Callable[[Node], Any], expected: str | type[HelexaError]
) -> None:
    known = Catalogue(aliases={"alias": "real"})
    async with gateway(node("a", entries=loaded("real")), catalogue=known) as state:
        change(state.fleet.nodes["a"])
        if isinstance(expected, str):
            assert require_known(state, "alias") == expected
        else:
            with pytest.raises(expected):
                require_known(state, "alias")


async def test_the_catalogue_of_the_moment_counts() -> None:
    async with mock_neuron(loading([1])) as mock, gateway(host(mock)) as state:
        await poll_once(state)
        await refused(state, UnknownModel)
        state.catalogue = Catalogue({M: PROFILE}, {"alias": M})
        assert (await resolve(state, "alias")).model == M
