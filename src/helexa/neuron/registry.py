"""The models of a daemon: loaded, unloaded and found by name."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from helexa.engine.host import ConsumerGone
from helexa.errors import EngineClosed, HelexaError, InvalidRequest, PreflightError
from helexa.neuron.fetching import LoadWatch
from helexa.neuron.ids import ModelId, ModelSpec, find_slot, same_model
from helexa.neuron.listing import Contents, preflight
from helexa.neuron.metrics import Metrics
from helexa.neuron.recovery import RecoveringHost, State
from helexa.neuron.slots import Loader, Slot
from helexa.neuron.sources import Sources
from helexa.neuron.threads import Threads
from helexa.neuron.unbuilt import refuse_unbuilt
from helexa.protocol.envelope import chain_text
from helexa.refusals import ModelNotFound, ModelUnloaded
from helexa.streams import LoopMailbox

UNLOAD_S = 5.0
END_S = 20.0
Change = tuple[State, str]
Ended = TypeVar("Ended")

log = logging.getLogger(__name__)


class StillRunning(InvalidRequest):
    """A model cannot be unloaded while it answers, unless it is forced to."""

    status = 409

    def __init__(self, id: str) -> None:
        super().__init__(f"cannot unload '{id}': inference still in flight")


class Unkillable(StillRunning):
    """A model's process is still there although it was killed, and so is its memory."""

    def __init__(self, id: str) -> None:
        InvalidRequest.__init__(
            self,
            f"cannot unload '{id}': its process cannot be killed",
            hint="try again later; a process that never ends takes a reboot of the host",
        )


@dataclass(frozen=True, slots=True)
class Remnant:
    """What a load that failed has left: a process that could not be killed, on its devices."""

    model_id: str
    devices: tuple[int, ...]
    host: RecoveringHost


class Registry:
    """Slots by the name they were loaded by. For one event loop.

    ``gpus`` are the indices of the cards that may be used.
    """

    def __init__(
        self,
        loader: Loader,
        gpus: Callable[[], tuple[int, ...]],
        metrics: Metrics,
        threads: Threads,
    ) -> None:
        self.slots: dict[str, Slot] = {}
        self._loader = loader
        self._gpus = gpus
        self._metrics = metrics
        self._threads = threads
        self._closed: Callable[[], HelexaError] | None = None
        self._loading: dict[ModelId, anyio.Lock] = {}
        self._watches: dict[ModelId, LoadWatch] = {}
        self._remnants: list[Remnant] = []

    @property
    def sources(self) -> Sources:
        """Where models come from."""
        return self._loader.sources

    def find(self, model_id: str) -> Slot:
        """The slot that a name means. Raises ModelNotFound."""
        name = find_slot(model_id, self.slots, self._loader.sources.default)
        if name is None:
            raise ModelNotFound(model_id)
        return self.slots[name]

    def serving(self, model_id: str) -> Slot:
        """The slot, if it can take a request. Raises ModelNotFound, ModelRecovering."""
        slot = self.find(model_id)
        if slot.state == "poisoned":
            slot.host.retry_if_due()
        if slot.state != "loaded":
            raise slot.unavailable()
        return slot

    async def load(self, spec: ModelSpec, tasks: TaskGroup) -> None:
        """Load a model; a second caller for the same one waits and is refused.

        A model beyond repair is loaded afresh. A task of ``tasks`` follows what becomes of it until
        it is unloaded. Raises InvalidRequest if it is loaded already, PreflightError if it cannot
        be, or as `open_model`.
        """
        id, _ = self.sources.find(spec.model_id)
        async with self._one_at_a_time(id):
            if self._closed is not None:  # while this load waited for another
                raise self._closed()
            old = same_model(id, self.slots, self.sources.default)
            if old is not None and self.slots[old].state != "poisoned":
                raise InvalidRequest(f"model '{spec.model_id}' already loaded")
            gpus = self._gpus()
            devices = spec.place(gpus)
            self._refuse_held(devices, old)
            stall_s = self._loader.config.engine.load_stall_secs
            watch = LoadWatch(spec.model_id, stall_s, self._threads)
            changes: LoopMailbox[Change] = LoopMailbox()
            load = partial(
                self._loader.load,
                spec,
                devices,
                cuda=bool(gpus),
                watch=watch,
                on_change=partial(tell, changes),
            )
            self._watches[id] = watch
            log.info("loading %s", spec.model_id)
            try:
                slot = await self._timed(spec, self._fetched_and_loaded(spec, watch, old, load))
            except BaseException:
                self._keep_remnant(spec, devices, watch)
                raise
            finally:
                del self._watches[id]
            tasks.start_soon(self._follow, slot, changes)

    @asynccontextmanager
    async def _one_at_a_time(self, id: ModelId) -> AsyncIterator[None]:
        """Wait for other loads of the same model; what that takes is kept no longer than needed."""
        lock = self._loading.setdefault(id, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._loading.pop(id, None)

    def _refuse_held(self, devices: tuple[int, ...], old: str | None) -> None:
        """Raises InvalidRequest if a process that cannot be killed holds one of some devices."""
        self._remnants = [remnant for remnant in self._remnants if remnant.host.stuck]
        held = [(slot.id, slot.devices) for slot in self.slots.values() if slot.host.stuck]
        held += [(remnant.model_id, remnant.devices) for remnant in self._remnants]
        for name, place in held:
            if name == old or set(place) & set(devices):
                raise InvalidRequest(
                    f"device {', '.join(map(str, place))} is held by a process of '{name}' "
                    "that cannot be killed",
                    hint="try again later; a process that never ends takes a reboot of the host",
                )

    def _keep_remnant(self, spec: ModelSpec, devices: tuple[int, ...], watch: LoadWatch) -> None:
        host = watch.host
        if isinstance(host, RecoveringHost) and host.stuck:
            self._remnants.append(Remnant(spec.model_id, devices, host))

    async def _fetched_and_loaded(
        self, spec: ModelSpec, watch: LoadWatch, old: str | None, load: Callable[[Contents], Slot]
    ) -> Slot:
        """Check what is to be loaded, make room for it, and load it."""
        found = await watch.run(partial(preflight, spec, self.sources, self._loader.environ))
        refuse_unbuilt(found.plan)
        if old is not None and old in self.slots:
            await self._remove(self.slots[old])
        return await watch.run(partial(load, found.contents))

    async def _timed(self, spec: ModelSpec, loading: Awaitable[Slot]) -> Slot:
        """Load and list a model, and say how long it took and how it went."""
        began, slot, fault = time.monotonic(), None, None
        why: dict[str, str] = {}
        try:
            slot = self.slots[spec.model_id] = await loading
            if self._closed is not None:
                slot.door.close(self._closed)
            return slot
        except EngineClosed:
            why["detail"] = f"load of '{spec.model_id}' was cancelled"
            raise InvalidRequest(why["detail"]) from None
        except Exception as error:  # logged, and raised to whoever asked
            why["detail"] = chain_text(error)
            if isinstance(error, PreflightError):
                why["reason"] = error.kind
            elif not isinstance(error, HelexaError):
                fault = error
            raise
        finally:
            took_s = time.monotonic() - began
            self._metrics.model_loaded(spec.model_id, took_s, ok=slot is not None)
            elapsed_ms = round(1000 * took_s)
            fields = {"model": spec.model_id, "elapsed_ms": elapsed_ms, **why}
            if slot is not None:
                log.info("model loaded", extra={"fields": fields})
            else:
                fields.setdefault("detail", "it was cancelled")
                log.warning("model not loaded", extra={"fields": fields}, exc_info=fault)

    async def _follow(self, slot: Slot, changes: LoopMailbox[Change]) -> None:
        """Let a slot know what its host goes through, until it is closed."""
        while slot.state != "closed":
            state, cause = await changes.get()
            before = slot.state
            slot.changed(state)
            if self._closed is not None:
                slot.door.close(self._closed)
            if state not in (before, "closed"):
                level = logging.INFO if state == "loaded" else logging.WARNING
                fields = {"model": slot.id, "status": slot.wire_status, "cause": cause}
                log.log(level, "model status changed", extra={"fields": fields})

    def close_doors(self, reason: Callable[[], HelexaError]) -> None:
        """Refuse whoever waits for a seat or will, at every model."""
        self._closed = reason
        for slot in self.slots.values():
            slot.door.close(reason)

    async def unload(self, model_id: str, *, force: bool = False) -> None:
        """Unload a model, or cancel its loading.

        Raises ModelNotFound, StillRunning, Unkillable.
        """
        loading = self._loading_as(model_id)
        if loading is None:
            slot = self.find(model_id)
        else:
            gone = await self._ended(self._watches[loading].cancel)
            log.info("cancelled the load of %s", model_id)
            if not gone:
                raise Unkillable(model_id)
            old = same_model(loading, self.slots, self.sources.default)
            if old is None:
                return
            slot = self.slots[old]  # beyond repair, and was to be replaced: it goes as well
        if slot.load_report().in_flight and not force and slot.state == "loaded":
            raise StillRunning(model_id)
        await self._remove(slot)
        log.info("model unloaded", extra={"fields": {"model": slot.id}})

    async def cancel_loads(self) -> None:
        """End what is loading. To be called after `close_doors`."""
        with anyio.CancelScope(shield=True):  # bounded: each host kills its child in time
            async with anyio.create_task_group() as tasks:
                for watch in list(self._watches.values()):
                    tasks.start_soon(self._ended, watch.cancel)

    async def close(self) -> None:
        """Unload everything, side by side; what cannot be unloaded is logged."""
        slots = list(self.slots.values())
        stuck: list[str] = []
        with anyio.CancelScope(shield=True):  # bounded: each host kills its child in time
            async with anyio.create_task_group() as tasks:
                for slot in slots:
                    tasks.start_soon(self._end, slot, stuck)
        if stuck:
            left = ", ".join(sorted(stuck))
            log.error("%d of %d models could not be unloaded: %s", len(stuck), len(slots), left)

    async def _end(self, slot: Slot, stuck: list[str]) -> None:
        """Unload a model at the end of the daemon; ``stuck`` are those where that fails."""
        fields = {"model": slot.id}
        try:
            await self._remove(slot, END_S)
        except Exception as error:  # logged here; the other models are unloaded all the same
            stuck.append(slot.id)
            detail = {"detail": chain_text(error)}
            log.warning("model not unloaded", extra={"fields": fields | detail})
        else:
            log.info("model unloaded", extra={"fields": fields})

    async def _ended(self, end: Callable[[], Ended]) -> Ended:
        """What ending a process gives, which takes its time."""
        return await anyio.to_thread.run_sync(end, limiter=self._threads.ending)

    def _loading_as(self, model_id: str) -> ModelId | None:
        names = {str(id): id for id in self._watches}
        name = find_slot(model_id, names, self.sources.default)
        return None if name is None else names[name]

    async def _remove(self, slot: Slot, timeout_s: float = UNLOAD_S) -> None:
        """Close a slot; one whose process does not go stays listed, and Unkillable is raised."""
        self.slots.pop(slot.id, None)
        self._metrics.forget(slot.id)
        slot.door.close(lambda: ModelUnloaded(slot.id))
        if not await self._ended(partial(slot.model.close, timeout_s)):
            self.slots.setdefault(slot.id, slot)
            raise Unkillable(slot.id)


def tell(changes: LoopMailbox[Change], state: State, cause: str) -> None:
    """Leave a change of state for the event loop, if there still is one; never waits."""
    with suppress(ConsumerGone):
        changes.put((state, cause))
