"""Looking after neurons: what they say becomes the fleet's state, again and again.

Each node is polled in a task of its own, so that one that hangs delays no other.
"""

from __future__ import annotations

import logging

import anyio

from helexa.gateway.catalogue import Catalogue
from helexa.gateway.fleet import SERVING, Entry, Node, Status
from helexa.gateway.neuron_client import NeuronClient, warn_once
from helexa.gateway.refusals import NeuronCallFailed
from helexa.gateway.state import State
from helexa.protocol.control import ModelInfo

KNOWN: dict[str, Status] = {
    "loaded": "loaded",
    "unloaded": "unloaded",
    "reloading": "reloading",
    "loading": "loading",
    "recovering": "recovering",
}

log = logging.getLogger(__name__)


async def watch(state: State) -> None:
    """Poll every node at once and then again and again, for ever."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_catalogue, state)
        for node in state.fleet.nodes.values():
            tasks.start_soon(_watch_node, state, node)


async def _watch_catalogue(state: State) -> None:
    while True:
        try:
            check_catalogue(state)
        except Exception:  # the edge of a task: the old catalogue stays in force
            log.exception("the catalogue was not read again")
        await anyio.sleep(state.config.poller.interval_secs)


async def _watch_node(state: State, node: Node) -> None:
    while True:
        state.wakes[node.name] = asked = anyio.Event()
        try:
            await poll_node(state, node)
        except Exception:  # the edge of a task: a bug costs one pass, not the poller
            log.exception("node %s: the poll failed", node.name)
        with anyio.move_on_after(state.config.poller.interval_secs):
            await asked.wait()


def poll_soon(state: State, node: Node) -> None:
    """Have a node polled at once, if it is being watched."""
    asked = state.wakes.get(node.name)
    if asked is not None:
        asked.set()


async def poll_once(state: State) -> None:
    """Look at the catalogue's file, then at every node, once."""
    check_catalogue(state)
    async with anyio.create_task_group() as tasks:
        for node in state.fleet.nodes.values():
            tasks.start_soon(poll_node, state, node)


def check_catalogue(state: State) -> None:
    """Read the catalogue again if its file has changed."""
    if state.catalogue_file is not None:
        state.catalogue = state.catalogue_file.check()


async def poll_node(state: State, node: Node) -> None:
    """One pass over one node."""
    await poll_discovery(state, node)
    if await poll_models(state, node):
        await poll_capabilities(state, node)
    await poll_health(state, node)


async def poll_discovery(state: State, node: Node) -> None:
    """What the host is made of; asked again while the longest prompt is not known."""
    if node.discovery is not None and node.discovery.max_prompt_tokens > 0:
        return
    try:
        node.discovery = await _client(state, node).discovery(state.config.poller.timeout_secs)
    except NeuronCallFailed as failed:
        log.debug("node %s: no discovery: %s", node.name, failed)


async def poll_models(state: State, node: Node) -> bool:
    """What models a node has, and with that, whether it is up; False if it did not say."""
    before = {model: (entry, entry.status) for model, entry in node.entries.items()}
    poller = state.config.poller
    try:
        infos = await _client(state, node).models(poller.timeout_secs)
    except NeuronCallFailed as failed:
        node.consecutive_poll_failures += 1
        log.debug("node %s: no list of models: %s", node.name, failed)
        down = node.consecutive_poll_failures >= poller.failure_threshold
        if down and (node.healthy or node.consecutive_poll_failures == poller.failure_threshold):
            node.healthy = False
            node.endpoints.clear()
            node.warned.clear()
            log.warning("node %s is down: %s", node.name, failed)
        return False
    apply_models(node, infos, before, state.catalogue)
    if not node.healthy:
        log.info("node %s is up", node.name)
    node.healthy = True
    node.consecutive_poll_failures = 0
    node.last_poll = state.clock()
    return True


def apply_models(
    node: Node,
    infos: list[ModelInfo],
    before: dict[str, tuple[Entry, Status]],
    catalogue: Catalogue,
) -> None:
    """Make a node's entries what it lists.

    ``before`` is what was known when the question was sent: what the gateway itself has changed
    since then is newer than the answer, and stays.
    """
    listed: dict[str, ModelInfo] = {}
    for info in infos:
        model = catalogue.bare_id(info.id)
        if model not in listed or listed[model].status not in SERVING:
            listed[model] = info
    for model in list(node.entries):
        if model not in listed and _unchanged(node, model, before):
            node.drop(model)
    for model, info in listed.items():
        if model not in node.entries and model not in before:
            node.entries[model] = Entry(info.id)
        elif not _unchanged(node, model, before):
            continue
        _update(node, model, info, has_profile=model in catalogue.profiles)


def _unchanged(node: Node, model: str, before: dict[str, tuple[Entry, Status]]) -> bool:
    entry = node.entries.get(model)
    known = before.get(model)
    return known is not None and entry is known[0] and entry.status == known[1]


def _update(node: Node, model: str, info: ModelInfo, *, has_profile: bool) -> None:
    entry = node.entries[model]
    if entry.listed_id != info.id:
        node.endpoints.pop(model, None)
    entry.listed_id = info.id
    entry.harness = info.harness
    if info.vram_used_mb is not None:
        entry.vram_estimate_mb = info.vram_used_mb
    entry.devices = info.devices
    entry.capabilities = info.capabilities
    entry.limit = info.limit
    entry.tool_call = info.tool_call
    entry.reasoning = info.reasoning
    entry.servable = info.servable
    if info.status not in KNOWN and info.status != "poisoned":
        warn_once(node, f"{model!r} is in the unknown state {info.status[:100]!r}")
    entry.status = status_of(info, has_profile=has_profile)
    entry.poisoned = info.status == "poisoned" and entry.status == "recovering"


def status_of(info: ModelInfo, *, has_profile: bool) -> Status:
    """What a neuron's word for a model's state means here.

    A poisoned model that its neuron has given up on may as well be loaded anew, if it is known how.
    A word that nobody knows means that the model is not ready.
    """
    if info.status == "poisoned":
        given_up = info.servable is not None and not info.servable.ok
        return "unloaded" if given_up and has_profile else "recovering"
    return KNOWN.get(info.status, "loading")


async def poll_capabilities(state: State, node: Node) -> None:
    """Ask what models of the catalogue can do that nobody has loaded yet.

    The attempts are noted before the first is made, so that passes which overlap do not repeat
    them. A node that does not answer is not asked on: the rest has its turn in the next pass.
    """
    fleet, now = state.fleet, state.clock()
    poller = state.config.poller
    models = [
        model
        for model in state.catalogue.profiles
        if model not in fleet.capabilities and _due(state, node, model, now)
    ]
    fleet.capability_asked.update({(node.name, model): now for model in models})
    client = _client(state, node)
    for at, model in enumerate(models):
        if model in fleet.capabilities:
            continue
        listed = node.entries.get(model)
        profile = state.catalogue.profiles.get(model)
        id = listed.listed_id if listed else profile.qualified_id if profile else model
        try:
            found = await client.capabilities(id, poller.timeout_secs)
        except NeuronCallFailed as failed:
            log.debug("node %s: no word of what %s can do: %s", node.name, model, failed)
            if failed.answered is None:
                for left in models[at + 1 :]:
                    fleet.capability_asked.pop((node.name, left), None)
                return
            continue
        if found:
            fleet.capabilities[model] = found


def _due(state: State, node: Node, model: str, now: float) -> bool:
    asked = state.fleet.capability_asked.get((node.name, model))
    return asked is None or now - asked >= state.config.poller.capability_retry_secs


async def poll_health(state: State, node: Node) -> None:
    """How busy a node is, and what is free on its devices."""
    own = dict(node.own)
    try:
        health = await _client(state, node).health(state.config.poller.timeout_secs)
    except NeuronCallFailed as failed:
        log.debug("node %s: no health: %s", node.name, failed)
        return
    if health.activation is not None:
        node.activation = health.activation
    node.load = {state.catalogue.bare_id(load.id): load for load in health.models}
    node.own_at_poll = own
    node.device_health = {device.index: device for device in health.devices}


def _client(state: State, node: Node) -> NeuronClient:
    return NeuronClient(state.client, node)
