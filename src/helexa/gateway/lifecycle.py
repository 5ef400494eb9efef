"""Cold loads: one for each model of a node, one at a time on each node, shared by all who wait.

A load is a task of its own, which goes on when every client that waited for it has left.
"""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

import anyio
from anyio.abc import TaskGroup

from helexa.gateway.catalogue import Profile
from helexa.gateway.eviction import make_room
from helexa.gateway.fleet import SERVING, Backoff, Entry, Node
from helexa.gateway.giving_way import ASK_S, LOOK_S, GivingWay
from helexa.gateway.memory import after_load, free_on, need_mb
from helexa.gateway.neuron_client import NeuronClient
from helexa.gateway.placement import LoadBody, is_coming, is_loading, load_body
from helexa.gateway.poller import poll_health, poll_models, poll_soon
from helexa.gateway.refusals import NeuronCallFailed, StillBusy
from helexa.gateway.state import State

ALREADY_LOADED = "already loaded"
REFUSED = 422
NOT_FETCHED = "repo_fetch_failed"
REFUSAL_LASTS = 10
"""How many times longer a node is left alone that said that it never can."""
TOLD_CHARACTERS = 512

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Load:
    """One load. ``failure`` says why it failed, once it is ``done``.

    ``refusal``: what the neuron said while busy models were in the way.
    """

    node: Node
    model: str
    done: anyio.Event = field(default_factory=anyio.Event)
    failure: Backoff | None = None
    refusal: NeuronCallFailed | None = None
    waiting: int = 0
    all_gone: anyio.Event = field(default_factory=anyio.Event)

    async def wait(self) -> None:
        """Return when it is done.

        The next load on the node begins only when all who waited have gone on, and whoever does so
        without waiting again counts as a request of the model (`Node.arrives`) before that.
        """
        self.waiting += 1
        try:
            await self.done.wait()
        finally:
            self.waiting -= 1
            if not self.waiting and self.done.is_set():
                self.all_gone.set()


class Loads:
    """The cold loads of a gateway, which run while this is entered and are cancelled at its end."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._running: dict[tuple[str, str], Load] = {}
        self._turns: dict[str, anyio.Lock] = {}
        self._stack = AsyncExitStack()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(self._tasks.cancel_scope.cancel)
        self._state.loads = self
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._state.loads = self._tasks = None
        await self._stack.aclose()

    def running(self, node: Node, model: str) -> Load | None:
        """The load of a model that runs on a node, or waits for its turn there."""
        return self._running.get((node.name, model))

    def begin(self, node: Node, model: str, profile: Profile | None) -> Load:
        """Load a model on a node, unless that is under way; returns at once."""
        load = self.running(node, model)
        if load is not None:
            return load
        if self._tasks is None:
            raise RuntimeError("models are loaded only inside of `async with Loads(state)`")
        load = self._running[node.name, model] = Load(node, model)
        node.loading[model] = self._state.clock()
        self._tasks.start_soon(self._run, load, profile)
        return load

    async def _run(self, load: Load, profile: Profile | None) -> None:
        node = load.node
        turn = self._turns.setdefault(node.name, anyio.Lock())
        try:
            while load.model in node.leaving:  # noqa: ASYNC110  # what comes of that, nobody tells
                await anyio.sleep(LOOK_S)
            async with turn:
                done = await self._in_turn(load, profile, last=profile is None)
            if done or profile is None:
                return
            with GivingWay(self._state, node, profile, lambda: load.waiting > 0) as way:
                while not done:
                    last = not await way.chance()
                    async with turn:
                        done = await self._in_turn(load, profile, last=last)
        finally:
            self._end(load)

    async def _in_turn(self, load: Load, profile: Profile | None, *, last: bool) -> bool:
        """Load, and send those on their way who waited, before the next load evicts anything.

        False if busy models are in the way, and this is not the last try.
        """
        node, model = load.node, load.model
        try:
            load.failure = await load_model(self._state, load, profile, last=last)
            await _look_again(self._state, load, profile)
        except StillBusy:
            return False
        except Exception as error:  # the edge of a task: whoever waits must hear of it
            log.exception("node %s: loading %s failed", node.name, model)
            load.failure = _note_failure(self._state, load.node, model, _cause(error))
        self._end(load)
        if load.waiting:
            await load.all_gone.wait()
        return True

    def _end(self, load: Load) -> None:
        if self._running.get((load.node.name, load.model)) is load:
            load.node.loading.pop(load.model, None)
            del self._running[load.node.name, load.model]
        load.done.set()


async def load_model(
    state: State, load: Load, profile: Profile | None, *, last: bool = True
) -> Backoff | None:
    """Make room for a model, have it loaded, and note what that changes; the failure if it failed.

    Without a profile it is loaded under the id that the node lists, and nothing makes way. Where
    busy models are in the way the node is asked all the same, once. Raises StillBusy if it then
    refuses, unless this is the ``last`` try.
    """
    node, model = load.node, load.model
    entry = node.entries.get(model)
    if entry is not None and entry.status in SERVING and entry.can_serve:
        return None  # somebody else was faster, while this waited for its turn
    room, failed = True, load.refusal
    if profile is not None and not is_coming(node, model, state.catalogue):
        room = await make_room(state, node, profile)  # else its own memory is what is missing
    if room or failed is None:
        failed = await _ask(state, node, model, profile)
    if failed is None:
        node.backoff.pop(model, None)
        log.info("node %s: loaded %s", node.name, model)
        return None
    if not room and not last and _is_about_the_model(failed):
        load.refusal = failed
        raise StillBusy(failed.cause)
    return _note_failure(state, node, model, failed, for_good=room)


async def _ask(
    state: State, node: Node, model: str, profile: Profile | None
) -> NeuronCallFailed | None:
    """Have a node load a model, and note what that takes; why it did not, if it did not."""
    entry = node.entries.get(model)
    if profile is not None:
        body = load_body(profile, node, state.clock())
    else:
        body = LoadBody(entry.listed_id, entry.harness) if entry else LoadBody(model, "candle")
    before = free_on(node, body.devices or (), state.clock())
    log.info("node %s: loading %s", node.name, model)
    try:
        await NeuronClient(state.client, node).load(body, state.config.cold_load.timeout_secs)
    except NeuronCallFailed as failed:
        return None if ALREADY_LOADED in failed.body else failed
    if profile is not None and profile.vram_mb is not None:  # else nobody knows what it took
        after_load(node, before, need_mb(profile), state.clock())
    return None


def _is_about_the_model(failed: NeuronCallFailed) -> bool:
    return failed.answered is not None and not _not_fetched(failed.body)


def _cause(error: Exception) -> NeuronCallFailed:
    return NeuronCallFailed(f"internal error ({type(error).__name__})")


def _note_failure(
    state: State, node: Node, model: str, failed: NeuronCallFailed, *, for_good: bool = True
) -> Backoff:
    """Leave a node alone with a model that it did not load.

    ``for_good``: a refusal is about the model, and not about those in its way.
    """
    refused = for_good and failed.answered == REFUSED and not _not_fetched(failed.body)
    seconds = state.config.cold_load.backoff_secs * (REFUSAL_LASTS if refused else 1)
    if failed.answered is None:
        cause = f"HTTP request failed: {failed.cause}"
    else:
        cause = f"HTTP {failed.answered}: {failed.body[:TOLD_CHARACTERS]}"
    now = state.clock()
    backoff = node.backoff[model] = Backoff(now, now + seconds, cause, refused, state.catalogue)
    log.warning("node %s: %s was not loaded: %s", node.name, model, cause)
    return backoff


def _not_fetched(body: str) -> bool:
    """Whether a refusal is for the network's sake, and not for the model's."""
    try:
        return bool(json.loads(body)["error"]["kind"] == NOT_FETCHED)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


async def _look_again(state: State, load: Load, profile: Profile | None) -> None:
    """Learn what a load has changed; a node that says nothing new is believed to have the model."""
    node, model = load.node, load.model
    if load.failure is not None:
        poll_soon(state, node)
        return
    _enter(state, node, model, profile)
    await poll_models(state, node)
    with anyio.move_on_after(state.config.cold_load.timeout_secs):
        while node.healthy and is_loading(node, model):  # it has answered before it was done
            await anyio.sleep(ASK_S)
            await poll_models(state, node)
    await poll_health(state, node)
    if model not in node.entries:
        _enter(state, node, model, profile)


def _enter(state: State, node: Node, model: str, profile: Profile | None) -> None:
    entry = node.entries.get(model)
    if entry is None:
        listed_id = profile.qualified_id if profile is not None else model
        entry = node.entries[model] = Entry(listed_id)
    entry.status = "loaded"
    entry.poisoned = False
    entry.last_accessed = state.clock()
    if profile is not None and profile.vram_mb is not None:
        entry.vram_estimate_mb = profile.vram_mb
