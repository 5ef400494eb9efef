"""`GET /v1/models`: what can be asked for, where it is, and what it can do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from helexa.gateway.catalogue import Cost, feasible
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.refusals import UnknownModel
from helexa.gateway.state import State
from helexa.http.request import Request
from helexa.http.response import Response
from helexa.protocol.control import Limit
from helexa.protocol.json_text import to_json

logger = logging.getLogger("helexa.gateway")


@dataclass(slots=True)
class Listed:
    """One model in the making, over all nodes; ``locations`` by the name of their node."""

    id: str
    capabilities: tuple[str, ...] = ()
    feasible_on: tuple[str, ...] = ()
    cost: Cost | None = None
    loaded: bool = False
    locations: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    limit: Limit | None = None
    tool_call: bool = False
    reasoning: bool = False

    def add(self, node: Node, entry: Entry) -> None:
        """A node has it."""
        self.locations[node.name] = (entry.status, entry.vram_estimate_mb)
        self.loaded |= node.healthy and entry.status == "loaded"
        self.capabilities = tuple(dict.fromkeys((*self.capabilities, *entry.capabilities)))
        self.tool_call |= entry.tool_call
        self.reasoning |= entry.reasoning
        if entry.limit is not None and entry.limit.context > 0:
            shortest = self.limit is None or entry.limit.context < self.limit.context
            self.limit = entry.limit if shortest else self.limit

    def wire(self, now_s: int) -> dict[str, Any]:
        """The entry as clients see it: what is not known has no key."""
        return {
            "id": self.id,
            "object": "model",
            "created": now_s,
            "owned_by": "helexa",
            "loaded": self.loaded,
            "feasible_on": list(self.feasible_on),
            "locations": [
                {"node": node, "status": status, "vram_estimate_mb": vram_mb}
                for node, (status, vram_mb) in self.locations.items()
            ],
            "capabilities": list(self.capabilities),
            **({} if self.limit is None else {"limit": self.limit.to_wire()}),
            **({} if self.cost is None else {"cost": _cost(self.cost)}),
            "tool_call": self.tool_call,
            "reasoning": self.reasoning,
            **({} if self.limit is None else _lengths(self.limit)),
        }


def _lengths(limit: Limit) -> dict[str, int]:
    """The same under the names that other servers have for it."""
    lengths = {
        "max_model_len": limit.context,
        "max_input_tokens": limit.input,
        "max_output_tokens": limit.output,
    }
    return {name: value for name, value in lengths.items() if value}


def _cost(cost: Cost) -> dict[str, float]:
    prices = {
        "input": cost.input,
        "output": cost.output,
        "cache_read": cost.cache_read,
        "cache_write": cost.cache_write,
    }
    return {name: price for name, price in prices.items() if price is not None}


def listed_models(state: State) -> dict[str, Listed]:
    """Every model by its id, without aliases: of the catalogue, of nodes, and on their way."""
    fleet = state.fleet
    found = {
        profile.id: Listed(
            profile.id,
            fleet.capabilities.get(profile.id, profile.capabilities),
            tuple(
                node.name
                for node in fleet.healthy
                if node.discovery is not None and feasible(profile, node.name, node.devices)
            ),
            profile.cost,
        )
        for profile in state.catalogue.profiles.values()
    }
    for node in fleet.nodes.values():
        for model, entry in node.entries.items():
            found.setdefault(model, Listed(model)).add(node, entry)
    for node in fleet.nodes.values():
        for model in _on_their_way(state, node):
            new = Listed(model, fleet.capabilities.get(model, ()))
            found.setdefault(model, new).locations.setdefault(node.name, ("loading", None))
    return found


def _on_their_way(state: State, node: Node) -> list[str]:
    """What a node loads at its start, or for this gateway."""
    now, then = node.activation.in_progress, node.activation.pending
    told = [*([] if now is None else [now]), *then]
    return [*map(state.catalogue.bare_id, told), *node.loading]


def model_list(state: State, now_s: float) -> list[dict[str, Any]]:
    """All entries in the order of their ids; an alias has those of its target, at most once."""
    found = listed_models(state)
    aliases = {
        alias: replace(found[target], id=alias)
        for alias in state.catalogue.aliases
        if (target := state.catalogue.resolve_alias(alias)) in found
    }
    entries = {**found, **aliases}
    for entry in entries.values():
        entry.locations = dict(sorted(entry.locations.items()))
    return [entries[id].wire(int(now_s)) for id in sorted(entries)]


def model_entry(state: State, model: str, now_s: float) -> dict[str, Any]:
    """The entry of one model. Raises UnknownModel."""
    entries = {entry["id"]: entry for entry in model_list(state, now_s)}
    for id in (model, state.catalogue.bare_id(model)):
        if id in entries:
            return entries[id]
    raise UnknownModel(model)


def dangling_aliases(state: State) -> dict[str, str]:
    """Aliases of what nobody has, with what they stand for."""
    found = listed_models(state)
    known = state.catalogue
    targets = {alias: known.resolve_alias(alias) for alias in known.aliases}
    return {alias: target for alias, target in targets.items() if target not in found}


class ModelRoutes:
    """What answers `GET /v1/models` and `GET /v1/models/{id:path}`.

    ``now`` in seconds since 1970. Of an alias without a model the log is told once, and again when
    it has had one in between.
    """

    def __init__(self, state: State, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._now = now
        self._told: dict[str, str] = {}

    async def all(self, request: Request) -> Response:
        """The whole list."""
        dangling = dangling_aliases(self._state)
        for alias, target in dangling.items():
            if self._told.get(alias) != target:
                logger.warning("alias %r stands for %r, which nobody has", alias, target)
        self._told = dangling
        entries = model_list(self._state, self._now())
        return _json({"object": "list", "data": entries})

    async def one(self, request: Request) -> Response:
        """One entry. Raises UnknownModel."""
        return _json(model_entry(self._state, request.params["id"], self._now()))


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")
