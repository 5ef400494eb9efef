"""What the list of models says."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from helexa.gateway.api.models import ModelRoutes, model_entry, model_list
from helexa.gateway.catalogue import Catalogue, Cost, Profile
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.refusals import UnknownModel
from helexa.gateway.state import State
from helexa.http import Router, serving
from helexa.protocol.control import ActivationStatus, Limit
from tests.gateway.fleets import SQ, catalogue, gateway, loaded, node
from tests.http.wire import Answer, ask

pytestmark = pytest.mark.anyio

NOW = 1700000000.7
LIMIT = Limit(context=49152, input=40960, output=8192)


def with_aliases(*profiles: Profile, **aliases: str) -> Catalogue:
    """Aliases with a slash are written with two underscores."""
    return catalogue(
        *profiles, **{alias.replace("__", "/"): target for alias, target in aliases.items()}
    )


async def listed(*nodes: Node, has: Catalogue | None = None, **known: Any) -> dict[str, Any]:
    """The list by id; ``known`` are capabilities of models that are not loaded."""
    async with gateway(*nodes, catalogue=has) as state:
        state.fleet.capabilities.update(known)
        return {entry["id"]: entry for entry in model_list(state, NOW)}


TEST_MODEL: dict[str, Any] = {
    "id": "test-model",
    "object": "model",
    "created": 1700000000,
    "owned_by": "helexa",
    "loaded": True,
    "feasible_on": [],
    "locations": [{"node": "mock-node", "status": "loaded", "vram_estimate_mb": 8000}],
    "capabilities": ["text"],
    "tool_call": False,
    "reasoning": False,
}


def gw() -> Node:
    return node(entries=loaded("test-model", capabilities=("text",)))


async def test_g017_list() -> None:
    assert await listed(gw()) == {"test-model": TEST_MODEL}


async def test_g014_alias_listed() -> None:
    found = await listed(gw(), has=with_aliases(helexa__small="test-model"))
    assert found == {
        "helexa/small": {**TEST_MODEL, "id": "helexa/small"},
        "test-model": TEST_MODEL,
    }


async def test_g015_alias_unmapped() -> None:
    found = await listed(gw(), has=with_aliases(helexa__large="definitely-not-loaded"))
    assert list(found) == ["test-model"]


async def test_an_alias_of_an_id_with_its_source() -> None:
    has = with_aliases(Profile("test-model", source="helexa"), small="helexa:test-model")
    found = await listed(gw(), has=has)
    assert found["small"] == {**found["test-model"], "id": "small"}
    async with gateway(gw(), catalogue=has) as state:
        assert model_entry(state, "helexa:test-model", NOW) == found["test-model"]


async def test_g016_alias_wins() -> None:
    own = node(entries=loaded("test-model", "other", vram_mb=1))
    found = await listed(own, has=with_aliases(Profile("other", cost=Cost(1)), test_model="other"))
    assert found["test_model"] == {**found["other"], "id": "test_model"}
    found = await listed(
        own, has=Catalogue({"other": Profile("other", cost=Cost(1))}, {"test-model": "other"})
    )
    assert found["test-model"] == {**found["other"], "id": "test-model"}


async def test_an_alias_of_an_alias_stands_for_the_model_of_that_name() -> None:
    own = node(entries=loaded("a", "b", "c"))
    own.entries["b"].tool_call = True
    found = await listed(own, has=Catalogue({}, {"x": "b", "b": "c", "y": "x"}))
    assert found["x"]["tool_call"] is True
    assert found["b"]["tool_call"] is False
    assert "y" not in found


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def routes(state: State) -> Router:
    models, router = ModelRoutes(state, lambda: NOW), Router()
    router.add("GET", "/v1/models", models.all)
    router.add("GET", "/v1/models/{id:path}", models.one)
    return router


async def answers(state: State, *paths: str) -> list[Answer]:
    async with serving(routes(state)) as server:
        return [await ask(server, get(path)) for path in paths]


async def test_g018_by_id() -> None:
    async with gateway(node(entries=loaded("Qwen/Qwen3-8B"))) as state:
        whole, raw, encoded, unknown = await answers(
            state,
            "/v1/models",
            "/v1/models/Qwen/Qwen3-8B",
            "/v1/models/Qwen%2FQwen3-8B",
            "/v1/models/nope",
        )
    assert json.loads(whole.body) == {"object": "list", "data": [json.loads(raw.body)]}
    assert raw.body == encoded.body
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "'nope' not found" in unknown.error["message"]


async def test_g019_limit_cost_flags() -> None:
    profile = Profile("m", cost=Cost(0.0, 0.0), capabilities=("text",))
    entries = {"m": Entry("m", limit=LIMIT, tool_call=True, reasoning=True), "n": Entry("n")}
    found = await listed(node(entries=entries), has=catalogue(profile, Profile("n")))
    assert found["m"]["limit"] == {"context": 49152, "input": 40960, "output": 8192}
    assert found["m"]["cost"] == {"input": 0.0, "output": 0.0}
    assert found["m"]["tool_call"] is found["m"]["reasoning"] is True
    assert found["m"]["max_model_len"] == 49152
    assert found["m"]["max_input_tokens"] == 40960
    assert found["m"]["max_output_tokens"] == 8192
    assert not {key for key in found["n"] if key.startswith(("max_", "limit", "cost"))}


@pytest.mark.parametrize(
    ("limit", "missing"),
    [
        (Limit(context=4096, output=0), {"max_input_tokens", "max_output_tokens"}),
        (
            Limit(context=0, output=0),
            {"limit", "max_model_len", "max_input_tokens", "max_output_tokens"},
        ),
    ],
)
async def test_what_is_not_known_has_no_key(limit: Limit, missing: set[str]) -> None:
    found = (await listed(node(entries={"m": Entry("m", limit=limit)})))["m"]
    names = {"limit", "max_model_len", "max_input_tokens", "max_output_tokens"}
    assert names - set(found) == missing


async def test_g020_cost() -> None:
    has = catalogue(
        Profile("priced", cost=Cost(0.5, 1.5, 0.05, 0.6)),
        Profile("free", cost=Cost(0.0, 0.0)),
        Profile("unpriced"),
    )
    found = await listed(node(healthy=False, discovery=None), has=has)
    assert found["priced"]["cost"] == {
        "input": 0.5,
        "output": 1.5,
        "cache_read": 0.05,
        "cache_write": 0.6,
    }
    assert found["free"]["cost"] == {"input": 0.0, "output": 0.0}
    assert "cost" not in found["unpriced"]
    assert [entry["feasible_on"] for entry in found.values()] == [[], [], []]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Limit(context=32768, output=1), Limit(context=16384, output=2), 2),
        (Limit(context=16384, output=1), Limit(context=16384, output=2), 1),
        (None, Limit(context=16384, output=2), 2),
        (Limit(context=16384, output=1), None, 1),
    ],
)
async def test_g021_tightest(first: Limit | None, second: Limit | None, expected: int) -> None:
    nodes = [
        node("node-b", entries=loaded("m", limit=second)),
        node("node-a", entries=loaded("m", limit=first)),
    ]
    assert (await listed(*nodes))["m"]["limit"]["output"] == expected


async def test_g022_caps_union() -> None:
    nodes = [
        node("node-b", entries=loaded("m", capabilities=("text", "vision"))),
        node("node-a", entries=loaded("m", capabilities=("text",))),
    ]
    found = (await listed(*nodes))["m"]
    assert found["capabilities"] == ["text", "vision"]
    assert [place["node"] for place in found["locations"]] == ["node-a", "node-b"]


async def test_g023_loading() -> None:
    activation = ActivationStatus(state="pre_warming", in_progress="X", pending=("Y",))
    found = await listed(node(activation=activation))
    place = {"node": "mock-node", "status": "loading", "vram_estimate_mb": None}
    for id in ("X", "Y"):
        assert found[id]["loaded"] is False
        assert found[id]["locations"] == [place]
        assert found[id]["capabilities"] == []


async def test_loads_of_the_gateway_are_places_where_there_is_no_other() -> None:
    nodes = [
        node("node-a", entries={"m": Entry("m", status="unloaded")}, loading={"m": 1.0, "n": 1.0}),
        node("node-b", entries=loaded("m", "n"), loading={"x": 1.0}),
    ]
    found = await listed(*nodes, x=("image",))
    assert [place["status"] for place in found["m"]["locations"]] == ["unloaded", "loaded"]
    assert [place["node"] for place in found["n"]["locations"]] == ["node-a", "node-b"]
    assert [place["status"] for place in found["n"]["locations"]] == ["loading", "loaded"]
    assert found["x"]["capabilities"] == ["image"]


async def test_a_listed_id_on_its_way_is_the_catalogues_model() -> None:
    activation = ActivationStatus(state="pre_warming", in_progress="helexa:m")
    found = await listed(node(activation=activation), has=catalogue(Profile("m", source="helexa")))
    assert list(found) == ["m"]
    assert found["m"]["locations"][0]["status"] == "loading"


async def test_g024_unhealthy() -> None:
    found = (await listed(node(healthy=False, entries=loaded("test-model"))))["test-model"]
    assert found["loaded"] is False
    assert found["locations"] == TEST_MODEL["locations"]


async def test_an_unservable_replica_is_listed() -> None:
    found = (await listed(node(entries=loaded("test-model", servable=SQ))))["test-model"]
    assert found["loaded"] is True
    assert len(found["locations"]) == 1


async def test_g037_capabilities_of_what_is_not_loaded() -> None:
    has = with_aliases(
        Profile("z", capabilities=("text",)), Profile("w", capabilities=("text",)), helexa__i="z"
    )
    found = await listed(node(), has=has, z=("image",))
    assert found["z"]["loaded"] is False
    assert found["z"]["capabilities"] == ["image"]
    assert found["helexa/i"] == {**found["z"], "id": "helexa/i"}
    assert found["w"]["capabilities"] == ["text"]


async def test_where_a_model_fits_is_told_of_healthy_known_nodes() -> None:
    nodes = [
        node("node-c", free_mb=(1, 1)),
        node("node-b", free_mb=(1,)),
        node("node-a", free_mb=(1, 1), healthy=False),
        node("node-d", discovery=None),
    ]
    found = await listed(*nodes, has=catalogue(Profile("m", min_devices=2), Profile("n")))
    assert found["m"]["feasible_on"] == ["node-c"]
    assert found["n"]["feasible_on"] == ["node-b", "node-c"]


async def test_entries_are_in_the_order_of_their_ids() -> None:
    own = node(entries=loaded("b", "Z", "a/b", "a"))
    assert list(await listed(own, has=catalogue(Profile("aa")))) == ["Z", "a", "a/b", "aa", "b"]


async def test_one_entry_or_an_error() -> None:
    async with gateway(gw()) as state:
        assert model_entry(state, "test-model", NOW) == TEST_MODEL
        with pytest.raises(UnknownModel):
            model_entry(state, "nope", NOW)


async def test_an_alias_of_nothing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "helexa.gateway")
    async with gateway(gw(), catalogue=with_aliases(helexa__large="gone")) as state:
        await answers(state, "/v1/models", "/v1/models", "/v1/models/test-model")
    assert [record.getMessage() for record in caplog.records] == [
        "alias 'helexa/large' stands for 'gone', which nobody has"
    ]


async def test_a_name_that_is_half_a_character_harms_nobody() -> None:
    async with gateway(node(entries=loaded("bad\ud800"))) as state:
        (found,) = await answers(state, "/v1/models")
    assert [entry["id"] for entry in json.loads(found.body)["data"]] == ["bad\ud800"]
