"""The life of a core: take messages, step, hand over what came of it, publish the status.

Whoever runs the loop owns the core; everyone else leaves messages in its inbox and never waits for
the model.
"""

from __future__ import annotations

import contextlib
import logging
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
    def prepare(self, request: Request) -> None: ...
    def submit(self, request: Request) -> int: ...
    def abort(self, request_id: int, *, completed: bool = False) -> None: ...
    def step(self) -> list[StepOutput]: ...
    def status(self) -> EngineStatus: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Submit:
    id: int
    request: Request
    deliver: Deliver


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that failed before the core could have it."""

    id: int
    error: HelexaError
    deliver: Deliver


@dataclass(frozen=True, slots=True)
class Abort:
    id: int
    completed: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    pass


Message = Submit | Refused | Abort | Close


class CoreLoop:
    """Runs a core on the thread that calls `run`.

    ``publish`` is told the status when it changes, at most a few times a second while it steps;
    ``flush`` is called when a step's outputs have all been delivered, and before waiting.
    """

    def __init__(
        self,
        core: Core,
        inbox: SimpleQueue[Message],
        publish: Callable[[EngineStatus], None],
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._publish = publish
        self._flush = flush
        self._published_at = 0.0
        self._open: dict[int, tuple[int, Deliver]] = {}  # core's id → (host's id, sink)
        self._core_ids: dict[int, int] = {}  # host's id → core's id
        self._closing = False

    def run(self, refuse: Callable[[HelexaError], None]) -> None:
        """Run until closed or until the core fails; either way every open request is ended.

        ``refuse`` is told the reason before that, so that nothing comes in between.
        """
        reason: HelexaError = EngineClosed("the model was closed while this request ran")
        try:
            while not self._closing:
                self._take_messages()
                if not self._closing and not self._core.idle:
                    self._hand_over(self._core.step())
        except DeviceError as error:
            drop_locals(error)
            reason = error.with_traceback(None)
        except BaseException as error:  # the edge of the thread, and a panic in a library is no
            # Exception: every caller is told
            log.exception("the engine stopped on an unexpected error")
            reason = EngineLost(
                f"the engine stopped on {type(error).__name__}: {error}",
                hint="load the model again",
            )
        refuse(reason)
        self._end_all(reason)
        self._flush()
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
                self._flush()
        if taken:
            self._publish_now()
            self._flush()

    def _take(self, message: Message) -> None:
        match message:
            case Submit(host_id, request, deliver):
                self._accept(host_id, request, deliver)
            case Refused(host_id, error, deliver):
                hand_to(deliver, StepOutput(host_id, error=error))
            case Abort(host_id, completed):
                self._abort(host_id, completed)
            case Close():
                self._closing = True

    def _abort(self, host_id: int, completed: bool = False) -> None:
        core_id = self._core_ids.pop(host_id, None)
        if core_id is not None:
            del self._open[core_id]
            self._core.abort(core_id, completed=completed)

    def _accept(self, host_id: int, request: Request, deliver: Deliver) -> None:
        try:
            core_id = self._core.submit(request)
        except BaseException as error:  # also a library's panic: it is this request's alone
            hand_to(deliver, StepOutput(host_id, error=_refusal(error)))
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
            told = output if output.id == host_id else replace(output, id=host_id)
            if not hand_to(deliver, told):
                self._abort(host_id)
        self._flush()

    def _publish_now(self) -> None:
        self._published_at = time.monotonic()
        self._publish(self._core.status())

    def _end_all(self, reason: HelexaError) -> None:
        for host_id, deliver in list(self._open.values()):
            hand_to(deliver, StepOutput(host_id, error=reason))
        self._open.clear()
        self._core_ids.clear()
        with contextlib.suppress(Empty):
            while True:
                message = self._inbox.get_nowait()
                if isinstance(message, Submit | Refused):
                    hand_to(message.deliver, StepOutput(message.id, error=reason))


def _refusal(error: BaseException) -> HelexaError:
    """Why a request was not taken, as an error of the tree."""
    if isinstance(error, HelexaError):
        return error.with_traceback(None)
    log.error("a request could not be read", exc_info=error)
    return InvalidRequest(f"the request cannot be read: {type(error).__name__}: {error}")


def hand_to(deliver: Deliver, output: StepOutput) -> bool:
    """Call a sink; False if it failed: it lost its consumer and must not take others with it."""
    try:
        deliver(output)
    except ConsumerGone:
        return False
    except Exception:  # the consumer's own code: whatever it raises, the others go on
        log.exception("a consumer of request %d failed; the request is dropped", output.id)
        return False
    return True
