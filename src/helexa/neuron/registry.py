"""The models of a daemon: loaded, unloaded and found by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread

from helexa.errors import EngineClosed, InvalidRequest
from helexa.neuron.ids import ModelSpec, find_slot
from helexa.neuron.recovery import RecoveringHost
from helexa.neuron.slots import Loader, Slot
from helexa.neuron.sources import Sources
from helexa.refusals import ModelNotFound, ModelUnloaded

UNLOAD_S = 5.0

log = logging.getLogger(__name__)


class StillRunning(InvalidRequest):
    """A model cannot be unloaded while it answers, unless it is forced to."""

    status = 409

    def __init__(self, id: str) -> None:
        super().__init__(f"cannot unload '{id}': inference still in flight")


class Registry:
    """Slots by the name they were loaded by. For one event loop.

    ``gpus`` are the indices of the cards that may be used.
    """

    def __init__(self, loader: Loader, gpus: Callable[[], tuple[int, ...]]) -> None:
        self.slots: dict[str, Slot] = {}
        self._loader = loader
        self._gpus = gpus
        self._loading: dict[str, anyio.Lock] = {}
        self._hosts: dict[str, RecoveringHost] = {}
        self._no_more = False

    @property
    def sources(self) -> Sources:
        """Where models come from."""
        return self._loader.sources

    def refuse_loaded(self, spec: ModelSpec) -> None:
        """Raise InvalidRequest if the model is loaded already, and not beyond repair."""
        name = find_slot(spec.model_id, self.slots, self.sources.default)
        if name is not None and self.slots[name].state != "poisoned":
            raise InvalidRequest(f"model '{spec.model_id}' already loaded")

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

    async def load(self, spec: ModelSpec) -> Slot:
        """Load a model; a second caller for the same one waits and is refused.

        Raises InvalidRequest if it is loaded already, or as `open_model`.
        """
        id, _ = self._loader.sources.find(spec.model_id)
        lock = self._loading.setdefault(str(id), anyio.Lock())
        async with lock:
            self.refuse_loaded(spec)
            broken = find_slot(spec.model_id, self.slots, self.sources.default)
            if broken is not None:
                await self._remove(self.slots[broken])
            gpus = self._gpus()
            devices = spec.place(gpus)
            log.info("loading %s", spec.model_id)
            began = time.monotonic()
            try:
                slot = await anyio.to_thread.run_sync(
                    partial(
                        self._loader.load,
                        spec,
                        devices,
                        cuda=bool(gpus),
                        started=partial(self._note_host, str(id)),
                    )
                )
            except EngineClosed as error:
                raise InvalidRequest(f"load of '{spec.model_id}' was cancelled") from error
            finally:
                self._hosts.pop(str(id), None)
            self.slots[spec.model_id] = slot
            log.info("loaded %s in %.1f s", spec.model_id, time.monotonic() - began)
            return slot

    async def unload(self, model_id: str, *, force: bool = False) -> None:
        """Unload a model, or cancel its loading. Raises ModelNotFound, StillRunning."""
        id, _ = self._loader.sources.find(model_id)
        loading = self._hosts.get(str(id))
        if loading is not None:
            await anyio.to_thread.run_sync(loading.close, 0.0)
            return
        slot = self.find(model_id)
        if slot.load_report().in_flight and not force and slot.state == "loaded":
            raise StillRunning(model_id)
        await self._remove(slot)
        log.info("unloaded %s", model_id)

    async def cancel_loads(self) -> None:
        """End every load, those that have not come to their child as soon as they do."""
        self._no_more = True
        for host in list(self._hosts.values()):
            await anyio.to_thread.run_sync(host.close, 0.0)

    def _note_host(self, id: str, host: RecoveringHost) -> None:
        self._hosts[id] = host
        if self._no_more:
            host.close(0.0)

    async def close(self) -> None:
        """Unload everything."""
        with anyio.CancelScope(shield=True):  # bounded: each host kills its child in time
            for host in list(self._hosts.values()):
                await anyio.to_thread.run_sync(host.close, 0.0)
            for slot in list(self.slots.values()):
                await self._remove(slot)

    async def _remove(self, slot: Slot) -> None:
        self.slots.pop(slot.id, None)
        slot.door.close(lambda: ModelUnloaded(slot.id))
        await anyio.to_thread.run_sync(slot.model.close, UNLOAD_S)
