"""From the model that a client names to the node that answers, loading it where that is needed."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import anyio

from helexa.errors import HelexaError
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.lifecycle import Load
from helexa.gateway.refusals import Loading, NoHealthyNodes, UnknownModel
from helexa.gateway.routing import (
    AwaitLoad,
    ColdLoad,
    Decision,
    Question,
    RouteTo,
    cold_load_failed,
    decide,
    replicas,
)
from helexa.gateway.state import State

MOST_LOADS = 3
"""On how many nodes a request tries to have its model loaded."""


class Route(NamedTuple):
    """Where a request goes: ``model`` is the concrete id, `entry.listed_id` what the node calls it.

    ``cold_start``: the request had to wait for a load. ``probe``: the node has given up on the
    model, and this request may wake it; a 500 then means that it is recovering.
    """

    node: Node
    entry: Entry
    model: str
    cold_start: bool = False
    probe: bool = False


async def resolve(state: State, requested: str, *, exclude: Collection[str] = ()) -> Route:
    """Where a request for a model goes, other than to the nodes in ``exclude``.

    May wait for a load. Whoever is to dispatch the request counts it with `Node.arrives`
    before doing anything that waits, so that the next one sees it. Raises what `decide` decides,
    and ColdLoadFailed or Loading for a load that failed or takes long.
    """
    model = state.catalogue.resolve_alias(requested)
    decision = decide(_question(state, model, exclude))
    if isinstance(decision, HelexaError):
        raise decision
    if isinstance(decision, RouteTo):
        return _route(state, model, decision)
    to = await _after_loading(state, model, decision, exclude)
    return _route(state, model, to, cold_start=True)


def require_known(state: State, requested: str) -> str:
    """The concrete id of a model that a client names, if there is or may be such a model.

    Raises NoHealthyNodes, UnknownModel.
    """
    model = state.catalogue.resolve_alias(requested)
    decision = decide(_question(state, model))
    if isinstance(decision, NoHealthyNodes | UnknownModel):
        raise decision
    return model


def candidates(state: State, model: str, exclude: Collection[str] = ()) -> list[Route]:
    """The replicas that can take a request for a concrete id as they are, the best first."""
    nodes = replicas(_question(state, model, exclude))
    return [Route(node, node.entries[model], model) for node in nodes]


def another_replica(state: State, model: str, than: str) -> Route | None:
    """The best replica on another node; None if there is none."""
    found = candidates(state, model, (than,))
    if not found:
        return None
    found[0].entry.last_accessed = state.clock()
    return found[0]


def _question(
    state: State, model: str, exclude: Collection[str] = (), no_load: Collection[str] = ()
) -> Question:
    return Question(state.fleet, state.catalogue, model, state.clock(), exclude, no_load)


def _route(state: State, model: str, to: RouteTo, *, cold_start: bool = False) -> Route:
    node, now = state.fleet.nodes[to.node], state.clock()
    entry = node.entries[model]
    entry.last_accessed = now
    if to.probe:
        node.probed_at[model] = now
    return Route(node, entry, model, cold_start, to.probe)


async def _after_loading(
    state: State, model: str, decision: Decision, exclude: Collection[str]
) -> RouteTo:
    """Wait for loads, and begin them, until there is a replica.

    Raises the last ColdLoadFailed, or Loading if it takes too long.
    """
    failures: dict[str, HelexaError] = {}
    node = ""
    with anyio.move_on_after(state.config.cold_load.wait_secs):
        for _ in range(MOST_LOADS):
            if not isinstance(decision, AwaitLoad | ColdLoad):
                break
            node = decision.node
            load = _load(state, model, decision)
            await load.wait()
            if load.failure is not None:
                now = state.clock()
                failures[node] = cold_load_failed(model, node, load.failure, now)
            decision = decide(_question(state, model, exclude, failures))
        if isinstance(decision, RouteTo):
            return decision
        if failures:
            raise failures[node] if node in failures else list(failures.values())[-1]
        if isinstance(decision, HelexaError):
            raise decision
    raise Loading(model, node)


def _load(state: State, model: str, decision: AwaitLoad | ColdLoad) -> Load:
    loads, node = state.loads, state.fleet.nodes[decision.node]
    if loads is None:
        raise RuntimeError("models are loaded only inside of `async with Loads(state)`")
    running = loads.running(node, model)
    if running is not None:
        return running
    profile = (
        decision.profile if isinstance(decision, ColdLoad) else state.catalogue.profiles.get(model)
    )
    return loads.begin(node, model, profile)
