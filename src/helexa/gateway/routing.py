"""Which node a request goes to, or what has to happen first: pure, over the fleet as it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from helexa.errors import HelexaError
from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.fleet import SERVING, Backoff, Fleet, Node
from helexa.gateway.placement import holds, is_feasible, rank
from helexa.gateway.refusals import (
    ColdLoadFailed,
    FeasibleNodeUnhealthy,
    Loading,
    NoFeasibleNeuron,
    NoHealthyNodes,
    NoServableReplica,
    Recovering,
    UnknownModel,
)

PROBE_EVERY_S = 30.0
"""How often a request may go to a model that its node has given up on."""


class RouteTo(NamedTuple):
    """Send the request there. ``probe``: the model is poisoned, and this one may wake it."""

    node: str
    probe: bool = False


class AwaitLoad(NamedTuple):
    """Wait for the load that this gateway is running there."""

    node: str


class ColdLoad(NamedTuple):
    """Load the model there. Without a ``profile`` it is loaded under the id that the node lists."""

    node: str
    profile: Profile | None


Decision = RouteTo | AwaitLoad | ColdLoad | HelexaError


class Question(NamedTuple):
    """What is to be decided on.

    Nodes in ``exclude`` are not routed to, those in ``no_load`` are not loaded on.
    """

    fleet: Fleet
    catalogue: Catalogue
    model: str
    now: float
    exclude: Collection[str] = ()
    no_load: Collection[str] = ()

    @property
    def profile(self) -> Profile | None:
        return self.catalogue.profiles.get(self.model)

    @property
    def open_nodes(self) -> list[Node]:
        """The healthy nodes that are not excluded, in name order."""
        return [node for node in self.fleet.healthy if node.name not in self.exclude]

    def may_load(self, node: Node) -> bool:
        """Whether a load may be tried there: none has just failed."""
        return (
            node.name not in self.no_load
            and node.name not in self.exclude
            and self.backoff(node) is None
        )

    def backoff(self, node: Node) -> Backoff | None:
        """The failed load because of which a node is left alone."""
        backoff = node.backoff.get(self.model)
        if backoff is not None and backoff.holds(self.catalogue, self.now):
            return backoff
        return None

    def activating(self, node: Node, *, now: bool) -> bool:
        """Whether a node loads the model at its start, just ``now`` or later."""
        activation = node.activation
        current = () if activation.in_progress is None else (activation.in_progress,)
        listed = current if now else activation.pending
        return any(self.catalogue.bare_id(id) == self.model for id in listed)


def decide(question: Question) -> Decision:
    """What to do with a request for a model: the first step that has an answer."""
    if not question.fleet.healthy:
        return NoHealthyNodes()
    for step in _STEPS:
        decision = step(question)
        if decision is not None:
            return decision
    return UnknownModel(question.model)


def replicas(question: Question) -> list[Node]:
    """The nodes that can take the request as it is, the least busy first."""
    model = question.model
    ready = [node for node in question.open_nodes if _serves(node, model)]
    return sorted(ready, key=lambda node: (node.busy(model), node.name))


def _serves(node: Node, model: str) -> bool:
    entry = node.entries.get(model)
    if entry is None or model in node.leaving:
        return False
    return entry.status in SERVING and entry.can_serve


def _least_busy(question: Question) -> Decision | None:
    ready = replicas(question)
    return RouteTo(ready[0].name) if ready else None


def _running_load(question: Question) -> Decision | None:
    model = question.model
    running = [
        (node.loading[model], node.name)
        for node in question.open_nodes
        if model in node.loading and node.name not in question.no_load
    ]
    return AwaitLoad(min(running)[1]) if running else None


def _recovering(question: Question) -> Decision | None:
    model = question.model
    nodes = [
        node
        for node in question.fleet.healthy
        if model in node.entries and node.entries[model].status == "recovering"
    ]
    for node in nodes:
        probed = node.probed_at.get(model)
        due = probed is None or question.now - probed >= PROBE_EVERY_S
        if node.entries[model].poisoned and due and node.name not in question.exclude:
            return RouteTo(node.name, probe=True)
    return Recovering(model, nodes[0].name) if nodes else None


def _placed(question: Question) -> Decision | None:
    """What the catalogue has goes where it fits best, or where it is about to be anyway."""
    profile = question.profile
    if profile is None:
        return None
    feasible = [node for node in question.fleet.healthy if is_feasible(profile, node)]
    allowed = [node for node in feasible if question.may_load(node)]
    for coming in _coming(question, allowed):
        return ColdLoad(coming.name, profile)
    free = [node for node in allowed if not holds(node, question.model)]
    if free:
        best = rank(profile, free, question.catalogue, question.now)[0]
        return ColdLoad(best.name, profile)
    return (
        _failed(question, feasible)
        or _unservable(question)
        or _elsewhere(question, profile)
        or _on_its_way(question)
        or _excluded(question)
        or NoFeasibleNeuron(question.model)
    )


def _coming(question: Question, nodes: list[Node]) -> Iterator[Node]:
    """The nodes that are about to have the model without our doing, the soonest first."""
    model = question.model
    for node in nodes:
        entry = node.entries.get(model)
        if entry is not None and entry.status == "loading":
            yield node
    yield from (node for node in nodes if question.activating(node, now=True))
    yield from (node for node in nodes if question.activating(node, now=False))


def _failed(question: Question, nodes: list[Node]) -> Decision | None:
    """The last failure, if that is why no node is left."""
    failures = [
        (backoff.since, node.name, backoff)
        for node in nodes
        if (backoff := question.backoff(node)) is not None
    ]
    if not failures or len(failures) < len(nodes):
        return None
    _, name, last = max(failures, key=lambda failure: failure[:2])
    return cold_load_failed(question.model, name, last, question.now)


def cold_load_failed(model: str, node: str, backoff: Backoff, now: float) -> ColdLoadFailed:
    """A failed load, as those are told of it who ask while the node is left alone."""
    left_s = max(1, math.ceil(backoff.until - now))
    return ColdLoadFailed(model, node, backoff.cause, refused=backoff.refused, retry_after_s=left_s)


def _unservable(question: Question) -> Decision | None:
    for node in question.fleet.healthy:
        entry = node.entries.get(question.model)
        if entry is not None and not entry.can_serve:
            reason = (entry.servable.reason if entry.servable else None) or "unknown"
            return NoServableReplica(question.model, node.name, reason)
    return None


def _elsewhere(question: Question, profile: Profile) -> Decision | None:
    nodes = question.fleet.nodes.values()
    if any(not node.healthy and is_feasible(profile, node) for node in nodes):
        return FeasibleNodeUnhealthy(question.model)
    return None


def _listed_unloaded(question: Question) -> Decision | None:
    """What no catalogue has is loaded only where a node lists it."""
    model = question.model
    nodes = [
        node for node in question.fleet.healthy if model in node.entries and not holds(node, model)
    ]
    for node in nodes:
        if question.may_load(node):
            return ColdLoad(node.name, None)
    return _failed(question, nodes)


def _on_its_way(question: Question) -> Decision | None:
    for node in _coming(question, question.fleet.healthy):
        return Loading(question.model, node.name)
    return None


def _excluded(question: Question) -> Decision | None:
    """The only replicas are those that are not to be asked."""
    nodes = [node for node in question.fleet.healthy if node.name in question.exclude]
    if any(_serves(node, question.model) for node in nodes):
        return FeasibleNodeUnhealthy(question.model)
    return None


def _only_unhealthy(question: Question) -> Decision | None:
    if any(question.model in node.entries for node in question.fleet.nodes.values()):
        return FeasibleNodeUnhealthy(question.model)
    return None


_STEPS: tuple[Callable[[Question], Decision | None], ...] = (
    _least_busy,
    _running_load,
    _recovering,
    _placed,
    _listed_unloaded,
    _on_its_way,
    _unservable,
    _only_unhealthy,
)
