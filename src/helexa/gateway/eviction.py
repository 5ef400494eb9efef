"""Making models leave a node, so that another one has its place."""

from __future__ import annotations

import logging

import anyio

from helexa.gateway.catalogue import Profile
from helexa.gateway.fleet import Node
from helexa.gateway.memory import after_unload, estimate_mb, free_on, free_on_usable, home, share_mb
from helexa.gateway.neuron_client import NeuronClient
from helexa.gateway.placement import fits, on_usable_device, unsettled, victims
from helexa.gateway.poller import poll_health, poll_soon
from helexa.gateway.refusals import EvictionFailed, NeuronCallFailed, StillBusy
from helexa.gateway.state import State

MOST_EVICTIONS = 3
BUSY = 409
RISE_WAITS = 6
RISE_PAUSE_S = 1.0

log = logging.getLogger(__name__)


async def evict_lru_on_node(state: State, node_name: str, incoming: str | None) -> str | None:
    """Unload the model of a node that is the first to go; None if nothing may go.

    A model that its neuron will not let go is passed over. Raises EvictionFailed.
    """
    node = state.fleet.nodes.get(node_name)
    if node is None:
        raise EvictionFailed(f"node '{node_name}' not found")
    strategy = state.config.eviction.strategy
    victim = await _evict_first(state, node, victims(node, state.catalogue, incoming, strategy))
    if victim is not None:
        poll_soon(state, node)
    return victim


async def make_room(
    state: State, node: Node, profile: Profile, *, pause_s: float = RISE_PAUSE_S
) -> bool:
    """Evict until a model fits, or until nothing more can be done: the neuron has the last word.

    False if models are in the way that answer requests, or will. ``pause_s``: how long to wait
    between readings after a victim of unknown size.
    """
    await poll_health(state, node)  # the last reading may be older than any correction of it
    try:
        for _ in range(MOST_EVICTIONS):
            if fits(profile, free_on_usable(profile, node, state.clock())):
                return True
            before = _readings(profile, node)
            known = await _evict_idle(state, node, profile)
            if known is None:
                return True
            await poll_health(state, node)
            if not known:
                await _await_rise(state, node, profile, before, pause_s)
    except StillBusy as busy:
        log.info("node %s: no room for %s: %s", node.name, profile.id, busy)
        return False
    except EvictionFailed as failed:
        log.warning("node %s: no room for %s: %s", node.name, profile.id, failed)
    return True


async def _await_rise(
    state: State, node: Node, profile: Profile, before: dict[int, int], pause_s: float
) -> None:
    """Wait until more is free than ``before`` somewhere, for a few looks."""
    for _ in range(RISE_WAITS):
        if _has_risen(before, _readings(profile, node)):
            return
        await anyio.sleep(pause_s)
        await poll_health(state, node)


async def _evict_idle(state: State, node: Node, profile: Profile) -> bool | None:
    """Unload the first model that may go and has nothing to do, and say whether its size is known.

    None if none may go at all. Raises StillBusy, EvictionFailed.
    """
    candidates = candidates_for(state, node, profile)
    if not candidates:
        coming = unsettled_for(state, node, profile)
        if coming:
            raise StillBusy(f"{', '.join(coming)}: not loaded yet")
        return None
    idle = [model for model in candidates if model not in node.own]
    known = {model: _is_known(state, node, model) for model in idle}
    victim = await _evict_first(state, node, idle)
    if victim is None:
        raise StillBusy(f"{', '.join(candidates)}: still answering")
    return known[victim]


def candidates_for(state: State, node: Node, profile: Profile) -> list[str]:
    """What may make way for a model and is where that helps, in order."""
    strategy = state.config.eviction.strategy
    return [
        model
        for model in victims(node, state.catalogue, profile.id, strategy)
        if on_usable_device(profile, node, model)
    ]


def unsettled_for(state: State, node: Node, profile: Profile) -> list[str]:
    """What a neuron is bringing up where a model has to go, which may make way for it later."""
    coming = unsettled(node, state.catalogue, profile.id)
    return [model for model in coming if on_usable_device(profile, node, model)]


def _is_known(state: State, node: Node, model: str) -> bool:
    return estimate_mb(state.catalogue, model, node.entries[model]) is not None


def _has_risen(before: dict[int, int], after: dict[int, int]) -> bool:
    return any(free > before.get(index, 0) for index, free in after.items())


def _readings(profile: Profile, node: Node) -> dict[int, int]:
    return {
        index: node.device_health[index].vram_free_mb
        for index in free_on_usable(profile, node, 0.0)
        if index in node.device_health
    }


async def _evict_first(state: State, node: Node, candidates: list[str]) -> str | None:
    """Unload the first candidate that its neuron lets go. Raises StillBusy, EvictionFailed."""
    busy: StillBusy | None = None
    for model in candidates:
        if model not in node.entries:  # it left by itself meanwhile
            continue
        try:
            await unload(state, node, model)
        except NeuronCallFailed as failed:
            told = f"{failed.answered} {failed.body[:512]}" if failed.answered else failed.cause
            if failed.answered != BUSY:
                raise EvictionFailed(f"eviction failed: {told}") from failed
            busy = StillBusy(f"eviction failed: {told}")
        else:
            return model
    if busy is not None:
        raise busy
    return None


async def unload(state: State, node: Node, model: str) -> None:
    """Have a node unload a model, and note what that changes. Raises NeuronCallFailed."""
    entry = node.entries[model]
    share = share_mb(state.catalogue, node, model, entry)
    before = free_on(node, home(node, entry), state.clock())
    marked = model not in node.leaving
    node.leaving.add(model)  # whoever asks for it meanwhile waits for what comes of it
    try:
        await NeuronClient(state.client, node).unload(entry.listed_id)
    finally:
        if marked:
            node.leaving.discard(model)
    after_unload(node, before, share, state.clock())
    entry.status = "unloaded"
    node.endpoints.pop(model, None)
    node.lifecycle_cycles += 1
    state.metrics.evicted(model, node.name)
    log.info("node %s: unloaded %s", node.name, model)
    threshold = state.config.eviction.defrag_after_cycles
    if node.lifecycle_cycles >= threshold > 0:
        log.warning(
            "VRAM fragmentation threshold reached — consider restarting harness",
            extra={"fields": {"node": node.name, "cycles": node.lifecycle_cycles}},
        )
