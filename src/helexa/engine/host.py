"""Where a core lives. Every host offers the same few verbs, whatever stands behind them.

``ThreadHost`` runs a core on a thread of this process. The thread alone builds, steps and closes
the core; other threads leave messages in its inbox and never wait for the model.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from helexa.engine.core_loop import Abort, Close, ConsumerGone, Core, CoreLoop, Deliver, Submit
from helexa.engine.core_loop import Message as CoreMessage
from helexa.engine.outputs import EngineFacts, EngineStatus, Request
from helexa.engine.tracebacks import drop_locals
from helexa.errors import EngineClosed, EngineLost, HelexaError

__all__ = ["ConsumerGone", "Deliver", "Host", "ThreadHost"]


class Host(Protocol):
    """The interface that every home of a core has."""

    def start(self) -> EngineFacts:
        """Build the core and return what is fixed about it. Raises what building it raised."""
        ...

    def submit(self, request: Request, deliver: Deliver) -> int:
        """Hand over a request, at once and without waiting for the model.

        ``deliver`` is called with each of its outputs, in order, from the host's own thread: it
        must not block; if it raises, the request is dropped. Exactly one output is the last one
        (``finished``), unless the request is aborted or dropped. Raises ``EngineClosed`` or
        ``EngineLost`` if there is no core to take it.
        """
        ...

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        """Stop a request within one step; unknown and finished ids are ignored.

        ``completed``: its reader has all it wanted, so it counts as one that came to its end.
        """
        ...

    def status(self) -> EngineStatus:
        """The last published status; never waits."""
        ...

    def close(self, timeout_s: float = 5.0) -> bool:
        """End every open request with ``EngineClosed`` and give the core's memory back.

        Returns whether the core was gone within ``timeout_s`` seconds.
        """
        ...


class ThreadHost:
    """A core on a thread of this process, for notebooks, scripts and tests."""

    def __init__(self, build: Callable[[], Core], *, name: str = "helexa-engine") -> None:
        self._inbox: SimpleQueue[CoreMessage] = SimpleQueue()
        self._ids = itertools.count()
        self._ready = threading.Event()
        self._facts: EngineFacts | None = None
        self._failure: BaseException | None = None
        self._status = EngineStatus()
        self._gate = threading.RLock()  # a collected owner may close the host wherever it is
        self._ended: HelexaError | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, args=(build,), name=name, daemon=True)

    def start(self) -> EngineFacts:
        self._pid = os.getpid()
        try:
            self._thread.start()
            self._ready.wait()
        except BaseException:  # ^C: nobody will use the core, which ends as soon as it is built
            self.close(0)
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        assert self._facts is not None
        return self._facts

    def submit(self, request: Request, deliver: Deliver) -> int:
        if self._forked:
            raise EngineLost(
                f"the model was loaded in process {self._pid}, before a fork to this one, "
                "where its thread does not run",
                hint="load the model in the child process",
            )
        with self._gate:
            if self._ended is not None:
                raise self._ended.with_traceback(None)  # not that of the last one who tried
            request_id = next(self._ids)
            self._inbox.put(Submit(request_id, request, deliver))
        return request_id

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        self._inbox.put(Abort(request_id, completed))

    def status(self) -> EngineStatus:
        return self._status

    def close(self, timeout_s: float = 5.0) -> bool:
        if self._forked:
            return True  # the thread is not here, and may have held a lock when the copy was made
        self._refuse(EngineClosed("the model was closed", hint="load it again to go on"))
        self._inbox.put(Close())
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def _forked(self) -> bool:
        """Whether this is a copy of the host in a child process: no thread survives a fork."""
        return self._pid != os.getpid()

    def _refuse(self, reason: HelexaError) -> None:
        with self._gate:
            if self._ended is None:
                self._ended = reason

    def _run(self, build: Callable[[], Core]) -> None:
        try:
            core = build()
            del build  # and with it the opened checkpoint
            self._facts = core.facts
            self._status = core.status()
        except BaseException as error:  # the edge of the thread: start() raises it in the caller
            drop_locals(error)
            self._failure = error
            self._refuse(EngineLost(f"the model could not be loaded: {error}"))
            return
        finally:
            self._ready.set()
        CoreLoop(core, self._inbox, self._publish).run(self._refuse)
        self._status = EngineStatus()

    def _publish(self, status: EngineStatus) -> None:
        self._status = status
