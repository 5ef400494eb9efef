"""What neurons say becomes what the gateway knows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.catalogue_file import CatalogueFile
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.poller import poll_once, poll_soon, watch
from helexa.gateway.state import State
from helexa.protocol.control import Servable
from tests.gateway.fleets import SQ, Clock, catalogue, gateway, loaded, node
from tests.gateway.mock_setups import HEALTH, capable, reporting
from tests.gateway.mocks import SILENT, MockNeuron, Reply, Seen, as_json, gone, mock_neuron, model
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

IMAGE = "Tongyi-MAI/Z-Image-Turbo"


def unpolled(mock: MockNeuron, name: str = "mock-node", **facts: Any) -> Node:
    """A node of which nothing is known yet."""
    return Node(name, mock.url, **facts)


def the(state: State) -> Node:
    """The only node."""
    (only,) = state.fleet.nodes.values()
    return only


async def test_g029_discovers() -> None:
    models = [model("model-a"), model("model-b", "unloaded", vram_used_mb=None)]
    async with (
        mock_neuron(reporting(models)) as mock,
        gateway(unpolled(mock), clock=Clock(5.0)) as state,
    ):
        found = the(state)
        assert (found.healthy, found.entries) == (False, {})
        await poll_once(state)
        assert (found.healthy, found.last_poll) == (True, 5.0)
        a, b = found.entries["model-a"], found.entries["model-b"]
        assert (a.status, a.vram_estimate_mb, a.last_accessed) == ("loaded", 8000, None)
        assert (b.status, b.vram_estimate_mb) == ("unloaded", None)


async def test_g030_lists() -> None:
    models = [model("model-x"), model("model-y")]
    async with (
        mock_neuron(reporting(models)) as mock,
        gateway(unpolled(mock, "poll-node")) as state,
    ):
        await poll_once(state)
        assert sorted(state.fleet.nodes["poll-node"].entries) == ["model-x", "model-y"]


async def test_g031_debounce() -> None:
    async with mock_neuron() as mock, gateway(node(endpoint=gone())) as state:
        found = the(state)
        found.endpoints["x"] = ("http://x", 1e9)
        await poll_once(state)
        assert found.healthy
        await poll_once(state)
        await poll_once(state)
        assert (found.healthy, found.consecutive_poll_failures) == (False, 3)
        assert found.endpoints == {}
        found.endpoint = mock.url
        await poll_once(state)
        assert (found.healthy, found.consecutive_poll_failures) == (True, 0)


async def test_a_node_that_never_answered_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong address or bearer is to be seen in the log of a gateway that has just started."""
    async with gateway(node(endpoint=gone(), healthy=False)) as state:
        for _ in range(5):
            await poll_once(state)
        assert not the(state).healthy
    assert [told.partition(":")[0] for told in warned(caplog)] == ["node mock-node is down"]


async def test_g032_stale() -> None:
    async with mock_neuron() as mock, gateway(mock) as state:
        found = the(state)
        found.entries = loaded("keep-me", "drop-me", "unload-me")
        found.entries["keep-me"].last_accessed = 7.0
        found.endpoints["drop-me"] = ("http://x", 1e9)

        async def meanwhile(_: Seen) -> Reply:
            found.entries["new"] = Entry("new")
            found.entries["unload-me"].status = "unloaded"
            return as_json([model("keep-me"), model("unload-me")])

        mock.on("GET /models", meanwhile)
        await poll_once(state)
        assert sorted(found.entries) == ["keep-me", "new", "unload-me"]
        assert found.entries["keep-me"].last_accessed == 7.0
        assert found.entries["unload-me"].status == "unloaded"
        assert found.endpoints == {}


async def test_g033_activation() -> None:
    activation = {
        "state": "pre_warming",
        "pending": ["Qwen/model-y"],
        "in_progress": "Qwen/model-x",
        "completed": [],
        "failed": [{"model_id": "a/b", "error": "no"}],
    }
    async with (
        mock_neuron(reporting([], activation=activation)) as mock,
        gateway(unpolled(mock)) as state,
    ):
        await poll_once(state)
        found = the(state)
        assert (found.healthy, found.entries) == (True, {})
        assert found.activation.to_wire() == activation
        mock.health = {"uptime_secs": 1, "devices": [], "activation": {"state": "pondering"}}
        await poll_once(state)
        assert found.activation.in_progress == "Qwen/model-x"
        mock.health = {"uptime_secs": 1, "devices": []}
        await poll_once(state)
        assert (found.activation.state, found.activation.pending) == ("ready", ())


@pytest.mark.parametrize(
    ("status", "servable", "profile", "kept", "poisoned", "warnings"),
    [
        ("recovering", None, True, "recovering", False, 0),
        ("poisoned", None, True, "recovering", True, 0),
        ("poisoned", SQ, True, "unloaded", False, 0),
        ("poisoned", SQ, False, "recovering", True, 0),
        ("poisoned", Servable(ok=True), True, "recovering", True, 0),
        ("reloading", None, True, "reloading", False, 0),
        ("frobnicated", None, True, "loading", False, 1),
    ],
)
async def test_g034_statuses(
    status: str,
    servable: Servable | None,
    profile: bool,
    kept: str,
    poisoned: bool,
    warnings: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    facts = {"servable": servable.to_wire()} if servable else {}
    known = catalogue(Profile("m")) if profile else Catalogue()
    async with (
        mock_neuron(reporting([model("m", status, **facts)])) as mock,
        gateway(unpolled(mock), catalogue=known) as state,
    ):
        await poll_once(state)
        await poll_once(state)
        entry = the(state).entries["m"]
        assert (entry.status, entry.poisoned) == (kept, poisoned)
    assert len(warned(caplog)) == warnings


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_g035_old_health() -> None:
    async with mock_neuron(reporting([model("m")])) as mock, gateway(unpolled(mock)) as state:
        mock.health = {"uptime_secs": 42, "devices": []}
        await poll_once(state)
        assert the(state).load == {}
        mock.health["models"] = [{"id": "m", "in_flight": 1, "queue_depth": 3}, {"id": "x"}]
        await poll_once(state)
        load = the(state).load["m"]
        assert (load.in_flight, load.queue_depth) == (1, 3)
        assert (load.max_in_flight, load.max_queue_depth) == (0, 0)
        assert list(the(state).load) == ["m"]


async def test_g037_cold_caps() -> None:
    known = Catalogue({IMAGE: Profile(IMAGE)}, {"helexa/image": IMAGE})
    async with (
        mock_neuron(capable([], {IMAGE: ["image"]})) as mock,
        gateway(unpolled(mock), catalogue=known) as state,
    ):
        await poll_once(state)
        assert state.fleet.capabilities == {IMAGE: ("image",)}
        await poll_once(state)
        assert mock.count("GET /models/{id}/capabilities") == 1
        assert mock.seen("GET /models/{id}/capabilities")[0].path.count("/") == 3


@pytest.mark.parametrize("table", [{}, {"m": []}, {"m": [1]}], ids=["404", "empty", "odd"])
async def test_g038_no_evidence(table: dict[str, list[str]]) -> None:
    async with (
        mock_neuron(capable([], table)) as mock,
        gateway(unpolled(mock), catalogue=catalogue(Profile("m"))) as state,
    ):
        await poll_once(state)
        assert mock.count("GET /models/{id}/capabilities") == 1
        assert state.fleet.capabilities == {}


async def test_g039_no_starvation() -> None:
    async with (
        mock_neuron(capable([], {})) as first,
        mock_neuron(capable([], {IMAGE: ["image"]})) as second,
        gateway(
            unpolled(first, "a"), unpolled(second, "b"), catalogue=catalogue(Profile(IMAGE))
        ) as state,
    ):
        await poll_once(state)
        assert state.fleet.capabilities == {IMAGE: ("image",)}


async def test_g040_caps_backoff() -> None:
    clock, asked = Clock(), "GET /models/{id}/capabilities"
    known = catalogue(Profile("m"), Profile("n", source="zz"))
    async with (
        mock_neuron(capable([], {})) as mock,
        mock_neuron(capable([], {})) as mute,
        gateway(unpolled(mock), unpolled(mute, "mute"), catalogue=known, clock=clock) as state,
    ):
        mute.on("GET /models", as_json([], 500))
        for seconds, times in ((0, 2), (10, 2), (601, 4)):
            clock.now = 1000.0 + seconds
            await poll_once(state)
            assert mock.count(asked) == times
        assert [seen.model for seen in mock.seen(asked)[:2]] == ["m", "zz:n"]
        assert mute.count(asked) == 0


async def test_a_node_that_hangs_over_one_model_is_asked_for_the_others_later() -> None:
    asked = "GET /models/{id}/capabilities"
    async with (
        mock_neuron(capable([], {})) as mock,
        gateway(
            unpolled(mock),
            catalogue=catalogue(Profile("m"), Profile("n")),
            poller={"timeout_secs": 0.4},
        ) as state,
    ):

        async def answer(seen: Seen) -> Reply:
            return SILENT if seen.model == "m" else as_json({}, 404)

        mock.on(asked, answer)
        await poll_once(state)
        await poll_once(state)
        assert [seen.model for seen in mock.seen(asked)] == ["m", "n"]


async def test_g041_concurrent() -> None:
    async with (
        mock_neuron() as hung,
        mock_neuron() as well,
        gateway(unpolled(hung, "a"), unpolled(well, "b")) as state,
        anyio.create_task_group() as tasks,
    ):
        hung.on("GET /discovery", SILENT)
        tasks.start_soon(poll_once, state)
        await settle(lambda: state.fleet.nodes["b"].healthy, timeout_s=4.0)
        assert not state.fleet.nodes["a"].healthy
        tasks.cancel_scope.cancel()


async def test_discovery_is_asked_until_it_is_complete() -> None:
    told: dict[str, Any] = {"hostname": "h", "devices": []}

    async def answer(_: Seen) -> Reply:
        return as_json(told)

    async with mock_neuron() as mock, gateway(unpolled(mock)) as state:
        mock.on("GET /discovery", answer)
        await poll_once(state)
        told["max_prompt_tokens"] = 100
        await poll_once(state)
        await poll_once(state)
        assert mock.count("GET /discovery") == 2
        mock.on("GET /discovery", as_json({}, 500))
        assert the(state).discovery is not None


async def test_a_source_makes_two_ids_one_model() -> None:
    known = catalogue(Profile("o/m", source="zz"))
    models = [model("o/m", "unloaded"), model("zz:o/m", limit={"context": 5, "output": 4})]
    health = HEALTH | {"models": [{"id": "zz:o/m", "in_flight": 2, "queue_depth": 0}]}
    async with (
        mock_neuron(reporting(models, health)) as mock,
        gateway(unpolled(mock), catalogue=known) as state,
    ):
        await poll_once(state)
        (entry,) = the(state).entries.values()
        assert (entry.listed_id, entry.status) == ("zz:o/m", "loaded")
        assert the(state).busy("o/m") == 2


async def test_own_requests_are_noted_when_a_reading_is_taken() -> None:
    async with mock_neuron(reporting([model("m")])) as mock, gateway(unpolled(mock)) as state:
        the(state).own["m"] = 2
        mock.health["models"] = [{"id": "m", "in_flight": 5, "queue_depth": 0}]
        await poll_once(state)
        assert the(state).busy("m") == 5
        the(state).own["m"] = 3
        assert the(state).busy("m") == 6


async def test_bearer_and_catalogue(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[aliases]\n"a" = "b"\n')
    async with mock_neuron() as mock, gateway(unpolled(mock, bearer="secret")) as state:
        state.catalogue_file = CatalogueFile(file)
        await poll_once(state)
        assert mock.seen("GET /models")[0].header("authorization") == "Bearer secret"
        assert state.catalogue.resolve_alias("a") == "b"


async def test_g005_reload(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[aliases]\n"a" = "b"\n')
    async with gateway() as state:
        state.catalogue_file = CatalogueFile(file)
        file.write_text('[aliases]\n"a" = "cc"\n')
        await poll_once(state)
        assert state.catalogue.resolve_alias("a") == "cc"
        file.write_text('[aliases\n"a" = "ddd"\n')
        await poll_once(state)
        assert state.catalogue.resolve_alias("a") == "cc"


async def test_watching_goes_on_and_can_be_hurried() -> None:
    async with (
        mock_neuron() as slow,
        mock_neuron() as often,
        gateway(unpolled(slow, "a"), unpolled(often, "b"), poller={"interval_secs": 60.0}) as state,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(watch, state)
        nodes = state.fleet.nodes
        await settle(lambda: slow.count("GET /health") == often.count("GET /health") == 1)
        poll_soon(state, nodes["b"])
        await settle(lambda: often.count("GET /health") == 2)
        assert slow.count("GET /health") == 1
        tasks.cancel_scope.cancel()


async def test_watching_survives_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Clock):
        def __call__(self) -> float:
            raise RuntimeError("a bug")

    async with (
        mock_neuron() as mock,
        gateway(unpolled(mock), poller={"interval_secs": 0.01}) as state,
        anyio.create_task_group() as tasks,
    ):
        state.clock = Broken()
        tasks.start_soon(watch, state)
        await settle(lambda: mock.count("GET /models") > 2)
        tasks.cancel_scope.cancel()
    assert "the poll failed" in caplog.text
