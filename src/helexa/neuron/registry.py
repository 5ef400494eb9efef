"""The models of a daemon: loaded, unloaded and found by name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread

from helexa.errors import EngineClosed, InvalidRequest
from helexa.neuron.fetching import LoadWatch
from helexa.neuron.ids import ModelId, ModelSpec, find_slot, same_model
from helexa.neuron.listing import preflight
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
        self._loading: dict[ModelId, anyio.Lock] = {}
        self._watches: dict[ModelId, LoadWatch] = {}

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

    async def load(self, spec: ModelSpec) -> Slot:
        """Load a model; a second caller for the same one waits and is refused.

        A model beyond repair is loaded afresh. Raises InvalidRequest if it is loaded already,
        PreflightError if it cannot be, or as `open_model`.
        """
        id, _ = self.sources.find(spec.model_id)
        async with self._loading.setdefault(id, anyio.Lock()):
            old = same_model(id, self.slots, self.sources.default)
            if old is not None and self.slots[old].state != "poisoned":
                raise InvalidRequest(f"model '{spec.model_id}' already loaded")
            gpus = self._gpus()
            devices = spec.place(gpus)
            began = time.monotonic()
            loader = self._loader
            watch = LoadWatch(spec.model_id, loader.config.engine.load_stall_secs)
            self._watches[id] = watch
            try:
                await watch.run(partial(preflight, spec, self.sources, loader.environ))
                if old is not None:
                    await self._remove(self.slots[old])
                slot = await watch.run(
                    partial(loader.load, spec, devices, cuda=bool(gpus), watch=watch)
                )
            except EngineClosed:
                raise InvalidRequest(f"load of '{spec.model_id}' was cancelled") from None
            finally:
                del self._watches[id]
            self.slots[spec.model_id] = slot
            log.info("loaded %s in %.1f s", spec.model_id, time.monotonic() - began)
            return slot

    async def unload(self, model_id: str, *, force: bool = False) -> None:
        """Unload a model, or cancel its loading. Raises ModelNotFound, StillRunning."""
        watch = self._loading_as(model_id)
        if watch is not None:
            await anyio.to_thread.run_sync(watch.cancel)
            log.info("cancelled the load of %s", model_id)
            return
        slot = self.find(model_id)
        if slot.load_report().in_flight and not force and slot.state == "loaded":
            raise StillRunning(model_id)
        await self._remove(slot)
        log.info("unloaded %s", model_id)

    async def close(self) -> None:
        """Unload everything."""
        with anyio.CancelScope(shield=True):  # bounded: each host kills its child in time
            for watch in list(self._watches.values()):
                await anyio.to_thread.run_sync(watch.cancel)
            for slot in list(self.slots.values()):
                await self._remove(slot)

    def _loading_as(self, model_id: str) -> LoadWatch | None:
        names = {str(id): watch for id, watch in self._watches.items()}
        name = find_slot(model_id, names, self.sources.default)
        return None if name is None else names[name]

    async def _remove(self, slot: Slot) -> None:
        self.slots.pop(slot.id, None)
        slot.door.close(lambda: ModelUnloaded(slot.id))
        await anyio.to_thread.run_sync(slot.model.close, UNLOAD_S)
