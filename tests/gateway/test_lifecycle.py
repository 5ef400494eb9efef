"""Models are loaded because somebody asks for them: once, one at a time, and for all who wait."""

from __future__ import annotations

import anyio
import pytest

from helexa.gateway import lifecycle
from helexa.gateway.catalogue import Profile
from helexa.gateway.endpoints import endpoint_url
from helexa.gateway.eviction import evict_lru_on_node
from helexa.gateway.fleet import Entry
from helexa.gateway.refusals import (
    ColdLoadFailed,
    Loading,
)
from helexa.gateway.router import Route, resolve
from tests.gateway.fleets import Clock, catalogue, gateway, host, loaded, node, refused
from tests.gateway.mock_setups import loading
from tests.gateway.mocks import SILENT, Reply, Seen, as_json, gone, mock_neuron
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

M, LOAD = "test-model", "POST /models/load"
PROFILE = Profile(M, vram_mb=1_000)
KNOWN = catalogue(PROFILE)


async def test_g058_load_body() -> None:
    profile = Profile("o/m", quant="q6k", min_devices=2, source="helexa")
    async with (
        mock_neuron(loading([9, 9, 9])) as mock,
        gateway(host(mock, free_mb=(9, 9, 9)), catalogue=catalogue(profile)) as state,
    ):
        route = await resolve(state, "o/m")
        assert (route.model, route.entry.listed_id, route.cold_start) == ("o/m", "helexa:o/m", True)
        (seen,) = mock.seen(LOAD)
        assert seen.json == {
            "model_id": "helexa:o/m",
            "harness": "candle",
            "quant": "q6k",
            "tensor_parallel": 2,
            "devices": [0, 1],
        }
        await endpoint_url(state, route.node, route.model)
        assert mock.seen("GET /models/{id}/endpoint")[0].model == "helexa:o/m"
        assert not (await resolve(state, "o/m")).cold_start
        assert mock.count(LOAD) == 1


async def test_g059_single_flight() -> None:
    async with (
        mock_neuron(loading([32_000], delay_s=0.2)) as mock,
        gateway(host(mock), catalogue=KNOWN) as state,
    ):
        routes: list[Route] = []

        async def one() -> None:
            routes.append(await resolve(state, M))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
        assert len(routes) == 20 and all(route.cold_start for route in routes)
        assert mock.count(LOAD) == 1
        assert state.fleet.nodes["mock-node"].loading == {}


async def test_g060_load_survives() -> None:
    async with (
        mock_neuron(loading([32_000], delay_s=0.3)) as mock,
        gateway(host(mock), catalogue=KNOWN) as state,
    ):
        with anyio.move_on_after(0.05) as left:
            await resolve(state, M)
        assert left.cancelled_caught
        await settle(lambda: M in state.fleet.nodes["mock-node"].entries)
        assert (await resolve(state, M)).node.name == "mock-node"
        assert mock.count(LOAD) == 1


@pytest.mark.parametrize(
    ("reply", "status", "text"),
    [
        (as_json({"error": {"kind": "unsupported_architecture"}}, 422), 404, "HTTP 422: "),
        (as_json({"error": {"kind": "repo_fetch_failed"}}, 422), 503, "HTTP 422: "),
        (as_json({"error": "x" * 100_000}, 500), 503, "HTTP 500: "),
        (Reply(then="reset", wire=b""), 503, "HTTP request failed: "),
        (SILENT, 503, "HTTP request failed: no answer within 0.3 s"),
    ],
    ids="never not_now long reset silent".split(),
)
async def test_g062_refused(reply: Reply, status: int, text: str) -> None:
    limit = {"timeout_secs": 0.3 if reply is SILENT else 30.0}
    async with (
        mock_neuron() as mock,
        gateway(host(mock), catalogue=KNOWN, cold_load=limit) as state,
    ):
        mock.on(LOAD, reply)
        error = await refused(state, ColdLoadFailed)
        assert (error.status, error.code) == (status, "service_unavailable")
        assert str(error).startswith(f"cold-load of 'test-model' on 'mock-node' failed: {text}")
        assert len(str(error)) < 620
        assert (error.retry_after_s is None) == (status == 404)
        left_s = state.fleet.nodes["mock-node"].backoff[M].until - state.clock()
        assert (left_s > 200) == (status == 404)


@pytest.mark.parametrize("listed", [True, False])
async def test_g062_already_loaded(listed: bool) -> None:
    async with mock_neuron() as mock, gateway(host(mock), catalogue=KNOWN) as state:
        mock.on(LOAD, as_json({"error": f"model '{M}' already loaded"}, 400))
        if not listed:
            mock.models = []
        route = await resolve(state, M)
        assert (route.entry.status, route.entry.listed_id) == ("loaded", M)


async def test_a_load_that_nobody_can_be_asked_for() -> None:
    async with gateway(node(endpoint=gone(), free_mb=(9_000,)), catalogue=KNOWN) as state:
        error = await refused(state, ColdLoadFailed)
        assert "HTTP request failed: " in str(error)


async def test_g065_wait_deadline() -> None:
    async with (
        mock_neuron(loading([32_000], delay_s=0.4)) as mock,
        gateway(host(mock), catalogue=KNOWN, cold_load={"wait_secs": 0.05}) as state,
    ):
        error = await refused(state, Loading)
        assert (error.status, error.retry_after_s) == (503, 10)
        assert str(error) == (
            "model 'test-model' is still loading on node 'mock-node' — retry shortly"
        )
        await settle(lambda: M in state.fleet.nodes["mock-node"].entries)
        await resolve(state, M)
        assert mock.count(LOAD) == 1


async def test_g066_slow_load() -> None:
    async with (
        mock_neuron(loading([32_000], delay_s=0.5)) as mock,
        gateway(host(mock), catalogue=KNOWN) as state,
    ):
        assert state.client.config.first_byte_timeout_s < 0.5
        assert (await resolve(state, M)).cold_start


async def test_g068_after_eviction() -> None:
    async with (
        mock_neuron(loading([32_000])) as mock,
        gateway(host(mock, entries=loaded(M)), catalogue=KNOWN) as state,
    ):
        await evict_lru_on_node(state, "mock-node", None)
        assert (await resolve(state, M)).cold_start
        assert mock.count(LOAD) == 1


async def test_g069_per_node_queue() -> None:
    known = catalogue(Profile("a"), Profile("b"))
    async with (
        mock_neuron(loading([32_000], delay_s=0.1)) as mock,
        gateway(host(mock), catalogue=known) as state,
        anyio.create_task_group() as tasks,
    ):
        for model in "ab":
            tasks.start_soon(resolve, state, model)
        await settle(lambda: mock.count(LOAD) == 2 and not mock.running[LOAD])
        assert mock.most_running[LOAD] == 1


async def test_a_load_makes_room_first_and_limits_are_known_after_it() -> None:
    new = Profile("new", vram_mb=8_000)

    async def unload(seen: Seen) -> Reply:
        mock.devices[0] = (32_768, 9_000)
        return as_json({"status": "unloaded"})

    async with (
        mock_neuron(loading([0])) as mock,
        gateway(
            host(mock, free_mb=(0,), entries=loaded("old", "older")), catalogue=catalogue(new)
        ) as state,
    ):
        mock.on("POST /models/unload", unload)
        route = await resolve(state, "new")
        routes = [seen.route for seen in mock.requests if seen.route.startswith("POST")]
        assert routes == ["POST /models/unload", LOAD]
        assert (route.entry.vram_estimate_mb, route.entry.capabilities) == (8_000, ("text",))


async def test_a_model_that_no_catalogue_has_is_loaded_as_it_is_listed() -> None:
    entries = {M: Entry(M, "unloaded", harness="other")}
    async with mock_neuron(loading([1])) as mock, gateway(host(mock, entries=entries)) as state:
        route = await resolve(state, M)
        assert (route.entry.status, mock.seen(LOAD)[0].json) == (
            "loaded",
            {
                "model_id": M,
                "harness": "other",
                "quant": None,
                "tensor_parallel": None,
                "devices": None,
            },
        )


async def test_a_neuron_that_never_has_what_it_says_it_loaded() -> None:
    waits = {"wait_secs": 0.3}
    async with (
        mock_neuron() as mock,
        gateway(host(mock), catalogue=KNOWN, cold_load=waits) as state,
    ):
        mock.models[0]["status"] = "loading"
        mock.on(LOAD, as_json({"status": "loaded"}))
        await refused(state, Loading)
        assert mock.count(LOAD) == 1


async def test_a_neuron_that_answers_before_it_has_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "ASK_S", 0.02)
    async with mock_neuron() as mock, gateway(host(mock), catalogue=KNOWN) as state:
        mock.models[0]["status"] = "loading"
        mock.on(LOAD, as_json({"status": "accepted"}, 202))
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(resolve, state, M)
            await settle(lambda: mock.count("GET /models") > 3)
            mock.models[0]["status"] = "loaded"
        assert state.fleet.nodes["mock-node"].entries[M].status == "loaded"
        assert mock.count(LOAD) == 1


async def test_a_bug_in_a_load_reaches_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Clock):
        calls = 0

        def __call__(self) -> float:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("a bug")
            return self.now

    async with mock_neuron() as mock, gateway(host(mock), catalogue=KNOWN) as state:
        state.clock = Broken()
        error = await refused(state, ColdLoadFailed)
        assert "internal error (RuntimeError)" in str(error)
        assert state.fleet.nodes["mock-node"].loading == {}
    assert "loading test-model failed" in caplog.text


async def test_the_end_of_a_gateway_does_not_wait_for_loads() -> None:
    async with mock_neuron() as mock:
        mock.on(LOAD, SILENT)
        with anyio.fail_after(20):
            async with gateway(host(mock), catalogue=KNOWN, cold_load={"wait_secs": 0.01}) as state:
                await refused(state, Loading)
                await settle(lambda: mock.count(LOAD) == 1)
            await settle(mock.left.is_set)
        assert state.loads is None
        with pytest.raises(RuntimeError):
            await resolve(state, M)
