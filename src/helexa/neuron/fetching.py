"""From a source to this machine: a model's files, fetched if they are not here, and a way out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from helexa.engine.checkpoint.formats import check_format
from helexa.engine.checkpoint.hub import fetch_model
from helexa.engine.checkpoint.reference import Builtin, GGUFFile, LocalFolder, Reference
from helexa.engine.checkpoint.resolve import is_gguf
from helexa.engine.checkpoint.transfer import Cancelled
from helexa.errors import EngineClosed, LoadError
from helexa.http.response import cause_of
from helexa.neuron.ids import ModelId
from helexa.neuron.listing import Contents, hub_id, local_folder
from helexa.neuron.sources import BUILTIN, Source
from helexa.neuron.threads import Threads
from helexa.text.tokenizer import demand_tokenizer

LOOK_EVERY_S = 0.1

Loaded = TypeVar("Loaded")


class Closable(Protocol):
    """A host, as far as ending it goes."""

    def close(self, timeout_s: float = 5.0) -> bool: ...


class LoadWatch:
    """One load on its way: whether it still gets on, and how to end it, from any thread.

    While files are fetched nothing but this sees that they do not arrive; once there is a host,
    that has a deadline of its own.
    """

    def __init__(self, model_id: str, stall_s: float, threads: Threads | None = None) -> None:
        self.cancelled = threading.Event()
        self.fetch_over = threading.Event()  # set as well by a fetch that fails in one of its files
        self._model_id = model_id
        self._stall_s = stall_s
        self._threads = threads or Threads()
        self._heard_s = time.monotonic()
        self._gate = threading.Lock()
        self._host: Closable | None = None
        self._stalled: LoadError | None = None

    def progress(self, name: str, done: int, total: int | None) -> None:
        """Something has arrived."""
        self._heard_s = time.monotonic()

    def started(self, host: Closable) -> None:
        """The files are here and ``host`` will load them. Raises EngineClosed if nobody waits."""
        with self._gate:
            self._refuse_if_cancelled()
            self._host = host

    @property
    def host(self) -> Closable | None:
        """What loads the files, once they are here."""
        return self._host

    def cancel(self) -> bool:
        """End the load; whether its process is gone, which may take until its deadline."""
        with self._gate:
            self._give_up()
            host = self._host
        return host is None or host.close(0.0)

    async def run(self, load: Callable[[], Loaded]) -> Loaded:
        """What ``load`` returns from a thread, which is left to itself if nobody waits any more.

        Raises what it raises, EngineClosed once it is cancelled, LoadError if it stalls.
        """
        loaded: list[Loaded] = []
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look_after)
                loaded.append(
                    await anyio.to_thread.run_sync(
                        load, abandon_on_cancel=True, limiter=self._threads.loading
                    )
                )
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = self._reason(group)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):  # bounded: a child is killed in time
                await anyio.to_thread.run_sync(self.cancel, limiter=self._threads.ending)
            raise
        if failure is not None:  # raised here, where the group does not become its context
            raise failure
        self._refuse_if_cancelled()
        return loaded[0]

    async def _look_after(self) -> None:
        while True:
            self._refuse_if_cancelled()
            if self._host is None and time.monotonic() - self._heard_s > self._stall_s:
                self._give_up()
                self._stalled = LoadError(
                    f"fetching '{self._model_id}' made no progress for {self._stall_s:g} seconds",
                    hint="check the network, then load it again; what has arrived is kept",
                )
                raise self._stalled
            await anyio.sleep(LOOK_EVERY_S)

    def _reason(self, group: BaseExceptionGroup[BaseException]) -> BaseException:
        """Why a load ended; what a thread says that was made to stop is not it."""
        if self._stalled is not None:
            return self._stalled
        if self.cancelled.is_set():
            return self._was_cancelled()
        return cause_of(group.exceptions[0])

    def _give_up(self) -> None:
        self.cancelled.set()
        self.fetch_over.set()

    def _refuse_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise self._was_cancelled()

    def _was_cancelled(self) -> EngineClosed:
        return EngineClosed(f"load of '{self._model_id}' was cancelled")


def fetch(
    id: ModelId,
    source: Source,
    revision: str,
    environ: Mapping[str, str],
    *,
    watch: LoadWatch,
    contents: Contents | None = None,
    quant: str | None = None,
) -> Reference:
    """Where a model is on this machine; what its source has and this machine lacks is fetched.

    ``quant`` is a part of the name of one of several GGUF files.
    ``contents`` is what the source said of it, or the copy here where it said nothing; without, it
    is asked.

    Raises as `fetch_model`, CheckpointError before weights of a model without a tokenizer are
    fetched, and EngineClosed once it is cancelled.
    """
    if source.scheme == BUILTIN:
        return Builtin(id.repo)
    if source.endpoint is None:
        place = local_folder(id, source)
        return GGUFFile(place, str(id)) if place.is_file() else LocalFolder(place, str(id))
    if contents is not None and contents.folder is not None:
        check_format(str(id), contents.files)
        return LocalFolder(contents.folder, str(id))
    access = replace(
        source.access(source.endpoint, environ),
        progress=watch.progress,
        cancelled=watch.fetch_over,
    )
    try:
        listing = None if contents is None else contents.listing
        path = fetch_model(
            hub_id(id), revision, access, listing, quant=quant, judge=demand_tokenizer
        )
    except Cancelled as error:
        raise EngineClosed(f"fetching '{id}' was cancelled") from error
    return GGUFFile(path, str(id)) if is_gguf(path) else LocalFolder(path, str(id))
