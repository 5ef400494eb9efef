"""Where a model that is not loaded goes, and what makes way for it: pure.

Nothing here depends on the order in which nodes or models are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helexa.gateway.catalogue import Catalogue, Profile, feasible, usable_devices
from helexa.gateway.fleet import Entry, Node
from helexa.gateway.memory import free_on_usable, home, need_mb, share_mb


@dataclass(frozen=True, slots=True)
class LoadBody:
    """What a neuron is asked to load; ``devices`` of None leaves the choice to it."""

    model_id: str
    harness: str
    quant: str | None = None
    tensor_parallel: int | None = None
    devices: tuple[int, ...] | None = None

    def to_wire(self) -> dict[str, Any]:
        """Plain JSON data, nulls written."""
        return {
            "model_id": self.model_id,
            "harness": self.harness,
            "quant": self.quant,
            "tensor_parallel": self.tensor_parallel,
            "devices": None if self.devices is None else list(self.devices),
        }


def load_body(profile: Profile, node: Node, now: float) -> LoadBody:
    """How a node is asked to load a model of the catalogue."""
    return LoadBody(
        model_id=profile.qualified_id,
        harness=profile.harness,
        quant=profile.quant,
        tensor_parallel=profile.min_devices if profile.min_devices > 1 else None,
        devices=choose_devices(profile, node, now),
    )


def choose_devices(profile: Profile, node: Node, now: float) -> tuple[int, ...] | None:
    """The devices that a model is to be on, in the order of discovery; None: the node decides.

    The first ones with room for it; if those are too few, the first of the others as well.
    """
    if profile.min_devices == 0:
        return None
    free, need = free_on_usable(profile, node, now), need_mb(profile)
    roomy_first = sorted(free, key=lambda index: free[index] < need)  # a stable sort
    chosen = set(roomy_first[: profile.min_devices])
    return tuple(index for index in free if index in chosen)


def fits(profile: Profile, free: Mapping[int, int]) -> bool:
    """Whether enough of the usable devices, with what is free on each, have room for a model."""
    need = need_mb(profile)
    return need == 0 or sum(mb >= need for mb in free.values()) >= profile.min_devices


def free_after_evicting(
    profile: Profile, node: Node, catalogue: Catalogue, now: float
) -> dict[int, int]:
    """What would be free if every loaded model made way that may be displaced."""
    free = free_on_usable(profile, node, now)
    for model, entry in displaceable(node, catalogue, profile.id):
        share = share_mb(catalogue, node, model, entry)
        for index in home(node, entry):
            if index in free:
                free[index] += share
    return free


def displaceable(
    node: Node, catalogue: Catalogue, incoming: str | None
) -> Iterable[tuple[str, Entry]]:
    """The loaded models that make way for another."""
    return (
        (model, entry)
        for model, entry in lesser(node, catalogue, incoming)
        if entry.status == "loaded"
    )


def unsettled(node: Node, catalogue: Catalogue, incoming: str | None) -> Iterable[str]:
    """The models that will make way for another once they are loaded, as they soon may be."""
    return (
        model
        for model, entry in lesser(node, catalogue, incoming)
        if entry.status not in ("loaded", "unloaded") and not entry.poisoned
    )


def lesser(node: Node, catalogue: Catalogue, incoming: str | None) -> Iterable[tuple[str, Entry]]:
    """The models of a node that another may displace, in whatever state."""
    return (
        (model, entry)
        for model, entry in node.entries.items()
        if model != incoming and catalogue.may_displace(incoming, model)
    )


def is_feasible(profile: Profile, node: Node) -> bool:
    """Whether a node, as far as its devices are known, could ever hold a model."""
    return node.discovery is not None and feasible(profile, node.name, node.devices)


def is_coming(node: Node, model: str, catalogue: Catalogue) -> bool:
    """Whether a node is about to have a model without our doing."""
    told = (node.activation.in_progress or "", *node.activation.pending)
    return is_loading(node, model) or any(catalogue.bare_id(id) == model for id in told)


def is_loading(node: Node, model: str) -> bool:
    """Whether a node says that it is loading a model, and not done with it."""
    entry = node.entries.get(model)
    return entry is not None and entry.status == "loading"


def holds(node: Node, model: str) -> bool:
    """Whether a node has a model in any state but unloaded, and keeps it."""
    entry = node.entries.get(model)
    return entry is not None and entry.status != "unloaded" and model not in node.leaving


def rank(profile: Profile, nodes: Iterable[Node], catalogue: Catalogue, now: float) -> list[Node]:
    """Candidates for a load, best first.

    It fits as things are; no load is running there; it fits once others have made way; the most
    room on a single device; the name.
    """

    def key(node: Node) -> tuple[bool, bool, bool, int, str]:
        free = free_on_usable(profile, node, now)
        emptied = free_after_evicting(profile, node, catalogue, now)
        most = max(free.values(), default=0)
        return (
            not fits(profile, free),
            bool(node.loading),
            not fits(profile, emptied),
            -most,
            node.name,
        )

    return sorted(nodes, key=key)


def victims(node: Node, catalogue: Catalogue, incoming: str | None, strategy: str) -> list[str]:
    """The models that may make way, in the order in which they are asked to.

    Idle ones before busy ones; under the strategy ``priority`` the lowest first; then the longest
    unused.
    """

    def key(item: tuple[str, Entry]) -> tuple[bool, int, bool, float, str]:
        model, entry = item
        busy = node.reported(model) > 0 or node.own.get(model, 0) > 0
        rank = catalogue.priority(model) if strategy == "priority" else 0
        used = entry.last_accessed
        return (busy, rank, used is not None, used or 0.0, model)

    return [model for model, _ in sorted(displaceable(node, catalogue, incoming), key=key)]


def on_usable_device(profile: Profile, node: Node, model: str) -> bool:
    """Whether a resident is on a device that another model could use."""
    usable = {device.index for device in usable_devices(profile, node.devices)}
    return not usable.isdisjoint(home(node, node.entries[model]))
