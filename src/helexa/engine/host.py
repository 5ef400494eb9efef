"""Where a core lives. Every host offers the same few verbs, whatever stands behind them.

``ThreadHost`` runs a core on a thread of this process. The thread alone builds, steps and closes
the core; other threads leave messages in its inbox and never wait for the model.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Protocol

from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput
from helexa.engine.tracebacks import drop_locals
from helexa.errors import DeviceError, EngineClosed, EngineLost, HelexaError, InvalidRequest

Deliver = Callable[[StepOutput], None]
PUBLISH_EVERY_S = 0.25

log = logging.getLogger(__name__)


class ConsumerGone(Exception):
    """Raised by a sink that has nobody left to deliver to; its request is dropped."""


class Core(Protocol):
    """What a host needs of an engine core; ``helexa.engine.core.EngineCore`` is one."""

    @property
    def facts(self) -> EngineFacts: ...
    @property
    def idle(self) -> bool: ...
    def submit(self, request: Request) -> int: ...
    def abort(self, request_id: int) -> None: ...
    def step(self) -> list[StepOutput]: ...
    def status(self) -> EngineStatus: ...
    def close(self) -> None: ...


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

    def abort(self, request_id: int) -> None:
        """Stop a request within one step; unknown and finished ids are ignored."""
        ...

    def status(self) -> EngineStatus:
        """The last published status; never waits."""
        ...

    def close(self, timeout_s: float = 5.0) -> bool:
        """End every open request with ``EngineClosed`` and give the core's memory back.

        Returns whether the core was gone within ``timeout_s`` seconds.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Submit:
    id: int
    request: Request
    deliver: Deliver


@dataclass(frozen=True, slots=True)
class _Abort:
    id: int


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Message = _Submit | _Abort | _Close


class ThreadHost:
    """A core on a thread of this process, for notebooks, scripts and tests."""

    def __init__(self, build: Callable[[], Core], *, name: str = "helexa-engine") -> None:
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
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
            self._inbox.put(_Submit(request_id, request, deliver))
        return request_id

    def abort(self, request_id: int) -> None:
        self._inbox.put(_Abort(request_id))

    def status(self) -> EngineStatus:
        return self._status

    def close(self, timeout_s: float = 5.0) -> bool:
        if self._forked:
            return True  # the thread is not here, and may have held a lock when the copy was made
        self._refuse(EngineClosed("the model was closed", hint="load it again to go on"))
        self._inbox.put(_Close())
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
        _CoreLoop(core, self._inbox, self._publish).run(self._refuse)
        self._status = EngineStatus()

    def _publish(self, status: EngineStatus) -> None:
        self._status = status


class _CoreLoop:
    """The life of a core on its own thread: take messages, step, deliver, publish."""

    def __init__(
        self, core: Core, inbox: SimpleQueue[_Message], publish: Callable[[EngineStatus], None]
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._publish = publish
        self._published_at = 0.0
        self._open: dict[int, tuple[int, Deliver]] = {}  # core's id → (host's id, sink)
        self._core_ids: dict[int, int] = {}  # host's id → core's id
        self._closing = False

    def run(self, refuse: Callable[[HelexaError], None]) -> None:
        """Run until closed or until the core fails; either way every open request is ended."""
        reason: HelexaError = EngineClosed("the model was closed while this request ran")
        try:
            while not self._closing:
                self._take_messages()
                if not self._closing and not self._core.idle:
                    self._hand_over(self._core.step())
        except DeviceError as error:
            drop_locals(error)
            reason = error.with_traceback(None)
        except Exception as error:  # the edge of the thread: every caller is told
            log.exception("the engine stopped on an unexpected error")
            reason = EngineLost(
                f"the engine stopped on {type(error).__name__}: {error}",
                hint="load the model again",
            )
        refuse(reason)
        self._end_all(reason)
        self._core.close()

    def _take_messages(self) -> None:
        wait = self._core.idle
        taken = False
        while not self._closing:
            try:
                self._take(self._inbox.get(block=wait))
            except Empty:
                break
            taken = True
            wait = self._core.idle and self._inbox.empty()
            if wait:
                self._publish_now()
        if taken:
            self._publish_now()

    def _take(self, message: _Message) -> None:
        match message:
            case _Submit(host_id, request, deliver):
                self._accept(host_id, request, deliver)
            case _Abort(host_id):
                self._abort(host_id)
            case _Close():
                self._closing = True

    def _abort(self, host_id: int) -> None:
        core_id = self._core_ids.pop(host_id, None)
        if core_id is not None:
            del self._open[core_id]
            self._core.abort(core_id)

    def _accept(self, host_id: int, request: Request, deliver: Deliver) -> None:
        try:
            core_id = self._core.submit(request)
        except Exception as error:  # whatever it is, it is this request's: no other is touched
            _deliver(deliver, StepOutput(host_id, error=_refusal(error)))
            return
        self._open[core_id] = (host_id, deliver)
        self._core_ids[host_id] = core_id

    def _hand_over(self, outputs: list[StepOutput]) -> None:
        ended = any(output.finished for output in outputs)
        if ended or time.monotonic() - self._published_at > PUBLISH_EVERY_S:
            self._publish_now()
        for output in outputs:
            if (sink := self._open.get(output.id)) is None:
                continue
            host_id, deliver = sink
            if output.finished:
                del self._open[output.id], self._core_ids[host_id]
            if not _deliver(deliver, replace(output, id=host_id)):
                self._abort(host_id)

    def _publish_now(self) -> None:
        self._published_at = time.monotonic()
        self._publish(self._core.status())

    def _end_all(self, reason: HelexaError) -> None:
        for host_id, deliver in list(self._open.values()):
            _deliver(deliver, StepOutput(host_id, error=reason))
        self._open.clear()
        self._core_ids.clear()
        with contextlib.suppress(Empty):
            while True:
                message = self._inbox.get_nowait()
                if isinstance(message, _Submit):
                    _deliver(message.deliver, StepOutput(message.id, error=reason))


def _refusal(error: Exception) -> HelexaError:
    """Why a request was not taken, as an error of the tree."""
    if isinstance(error, HelexaError):
        return error.with_traceback(None)
    log.error("a request could not be read", exc_info=error)
    return InvalidRequest(f"the request cannot be read: {type(error).__name__}: {error}")


def _deliver(deliver: Deliver, output: StepOutput) -> bool:
    """Call a sink; False if it failed: it lost its consumer and must not take others with it."""
    try:
        deliver(output)
    except ConsumerGone:
        return False
    except Exception:  # the consumer's own code: whatever it raises, the others go on
        log.exception("a consumer of request %d failed; the request is dropped", output.id)
        return False
    return True
