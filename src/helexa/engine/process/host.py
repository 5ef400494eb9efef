"""A core in a child process, behind the interface that every host has."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, Literal

from helexa.engine.core_loop import Deliver, hand_to
from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput
from helexa.engine.process.awake import AwakeClock
from helexa.engine.process.children import Child, Nursery
from helexa.engine.process.messages import (
    Abort,
    Alive,
    Build,
    Built,
    Close,
    Ended,
    FrameReader,
    FromChild,
    Outputs,
    Progress,
    Submit,
    ToChild,
    read,
    write,
)
from helexa.errors import (
    DeviceError,
    EngineClosed,
    EngineLost,
    HelexaError,
    InvalidRequest,
    LoadError,
    ProtocolError,
    StepTimeout,
)

TICK_S: Final = 0.1
LossCause = Literal["exit", "deadline", "device", "oom"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a child may take, in seconds.

    ``step`` for one step, and for any sign of life; ``load`` for a sign of progress while it loads;
    ``exit`` to be gone once it was killed.
    """

    step: float = 120.0
    load: float = 600.0
    exit: float = 60.0


@dataclass(frozen=True, slots=True)
class Loss:
    """How a host lost its child: the ``error`` its requests ended with.

    ``reaped`` is False if the process could not be killed in time, and still holds its card.
    """

    cause: LossCause
    error: HelexaError
    reaped: bool


class ProcessHost:
    """A core in a child process of ``nursery``, for servers.

    ``report`` is told of the progress of loading. ``on_loss`` is called once, from the host's own
    thread, when the child is gone without having been told to; every open request has had its last
    output by then. ``at_close`` is called when the host has been closed, or could not be started.
    """

    def __init__(
        self,
        order: Build,
        nursery: Nursery,
        *,
        deadlines: Deadlines | None = None,
        report: Callable[[str, int, int | None], None] | None = None,
        on_loss: Callable[[Loss], None] | None = None,
        at_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.loss: Loss | None = None
        self._order = order
        self._nursery = nursery
        self._deadlines = deadlines or Deadlines()
        self._report = report
        self._on_loss = on_loss
        self._at_close = at_close
        self._ids = itertools.count()
        self._status = EngineStatus()
        self._open: dict[int, Deliver] = {}
        self._gate = threading.Lock()
        self._taking = threading.RLock()  # a signal handler may close what it interrupts
        self._ended: HelexaError | None = None
        self._closing = False
        self._child: Child | None = None
        self._outbox: SimpleQueue[ToChild | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read_on, name="helexa-child", daemon=True)
        self._writer = threading.Thread(target=self._write_on, name="helexa-order", daemon=True)

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return None if self._child is None else self._child.pid

    def start(self) -> EngineFacts:
        """Have the child load the model. Raises what that raised there, LoadError if it died."""
        with self._taking:  # a close meanwhile waits, and then ends what was taken
            if self._ended is not None:
                raise self._ended.with_traceback(None)
            self._child = child = self._nursery.take()
        child.sock.settimeout(TICK_S)
        self._frames = FrameReader(child.sock)
        self._writer.start()
        self._outbox.put(self._order)
        try:
            if self._ended is not None:  # closed while the child was on its way
                raise self._ended
            built = self._wait_until_built()
        except BaseException as error:  # ^C too: nobody will use what is being loaded
            self._refuse(EngineLost(f"the model could not be loaded: {error}"))
            self._discard()
            self._at_close()
            raise
        self._status = built.status
        self._reader.start()
        self._nursery.prepare()
        return built.facts

    def submit(self, request: Request, deliver: Deliver) -> int:
        with self._gate:
            if self._ended is not None:
                raise self._ended.with_traceback(None)
            request_id = next(self._ids)
            self._open[request_id] = deliver
            self._outbox.put(Submit(request_id, request))
        return request_id

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        with self._gate:
            known = self._open.pop(request_id, None)
        if known is not None:
            self._outbox.put(Abort(request_id, completed))

    def status(self) -> EngineStatus:
        return self._status

    def close(self, timeout_s: float = 5.0) -> bool:
        self._closing = True
        self._refuse(EngineClosed("the model was closed", hint="load it again to go on"))
        gone = self._end_child(timeout_s)
        self._at_close()
        return gone

    def _end_child(self, timeout_s: float) -> bool:
        """Ask the child to leave, make it leave, wait until it has left."""
        with self._taking:
            child = self._child
        if child is None:
            return True
        self._outbox.put(Close())
        loading = not self._reader.is_alive()
        if loading or not child.reap(timeout_s):
            child.kill()
        gone = child.reap(self._deadlines.exit)
        if self._reader.is_alive() and self._reader is not threading.current_thread():
            self._reader.join(timeout_s)
        return gone

    def gone(self) -> bool:
        """Whether no process of it is left; does not wait."""
        return self._child is None or self._child.reap(0.0)

    def kill(self) -> None:
        """Kill the child as a fault would; what follows is the same."""
        if self._child is not None:
            self._child.kill()

    def _wait_until_built(self) -> Built:
        heard = time.monotonic()
        while True:
            try:
                message = self._receive()
            except TimeoutError:
                if time.monotonic() - heard > self._deadlines.load:
                    raise LoadError(
                        f"loading made no progress for {self._deadlines.load:g} seconds",
                        hint="check the disk and the network, then load the model again",
                    ) from None
                continue
            heard = time.monotonic()
            match message:
                case Built():
                    return message
                case Ended(error):
                    raise error
                case Progress(name, done, total):
                    if self._report is not None:
                        self._report(name, done, total)
                case None if self._closing:
                    raise EngineClosed("the model was closed while it was loading")
                case None:
                    raise LoadError(
                        f"the process that loaded the model {self._end_of_child()}",
                        hint="its last words are in the log",
                    )
                case other:
                    raise ProtocolError(f"while loading, the child sent {other!r:.80}")

    def _receive(self) -> FromChild | None:
        """The child's next message, None if it will send no more; TimeoutError after a tick."""
        try:
            body = self._frames.read()
        except TimeoutError:
            raise
        except (OSError, ProtocolError):
            return None  # reset, or cut off: it died in the middle of a word
        if body is None:
            return None
        message = read(body)
        if isinstance(message, Build | Submit | Abort | Close):
            raise ProtocolError(f"the child sent {message!r:.80}")
        return message

    def _read_on(self) -> None:
        """The reader's life: deliver, remember the status, see when the child is lost."""
        cause: LossCause = "exit"
        try:
            error = self._until_the_end()
        except HelexaError as broken:
            error = broken
        except BaseException as fault:  # nobody else watches the child: it ends, and its owner is
            # told
            log.exception("reading what the model's process says failed")
            error = EngineLost(f"its messages cannot be read: {type(fault).__name__}: {fault}")
        if self._closing:
            self._end_all(EngineClosed("the model was closed while this request ran"))
            self._discard()
            return
        if isinstance(error, StepTimeout):
            cause = "deadline"
        elif isinstance(error, DeviceError):
            cause = "oom" if error.out_of_memory else "device"
        error = error or self._exit_error()
        log.error("the model's process was lost (%s): %s", cause, error)
        self._refuse(error)
        self.loss = Loss(cause, error, reaped=self._discard())
        self._end_all(error)
        if self._on_loss is not None:
            self._on_loss(self.loss)

    def _until_the_end(self) -> HelexaError | None:
        """Handle messages until the child ends; why, if it is known."""
        awake = AwakeClock()
        heard, step_s, slept_s = awake(), 0.0, 0.0
        while True:
            try:
                message = self._receive()
            except TimeoutError:
                silent_s = awake() - heard
                if max(silent_s, step_s + silent_s if step_s else 0.0) > self._deadlines.step:
                    return StepTimeout(
                        f"a step, or a sign of life, took over {self._deadlines.step:g} seconds",
                        hint="send the request again in a moment",
                    )
                continue
            heard = awake()
            match message:
                case Outputs(outputs, status):
                    step_s, slept_s = 0.0, awake.slept_s
                    if status is not None:
                        self._status = status
                    for output in outputs:
                        self._deliver(output)
                case Alive(status, running_s):
                    if running_s is None:
                        slept_s = awake.slept_s
                    step_s = max(0.0, (running_s or 0.0) - (awake.slept_s - slept_s))
                    self._status = status
                    if step_s > self._deadlines.step:
                        return StepTimeout(
                            f"a step took over {self._deadlines.step:g} seconds",
                            hint="send the request again in a moment",
                        )
                case Ended(error):
                    return error
                case None:
                    return None
                case other:
                    raise ProtocolError(f"the child sent {other!r:.80}")

    def _deliver(self, output: StepOutput) -> None:
        with self._gate:
            deliver = self._open.get(output.id)
            if deliver is not None and output.finished:
                del self._open[output.id]
        if deliver is not None and not hand_to(deliver, output):
            self.abort(output.id)

    def _write_on(self) -> None:
        """The writer's life: a stopped child must not stop whoever submits."""
        child = self._child
        assert child is not None
        try:
            while (message := self._outbox.get()) is not None:
                frame = self._frame(message)
                if frame is not None and not self._send_all(child, frame):
                    return
        except BaseException:  # a child that is told nothing must not live on
            log.exception("writing to the model's process failed")
            child.kill()

    def _frame(self, message: ToChild) -> bytes | None:
        """A message as bytes; None for a request that has none, which is told so."""
        try:
            return write(message)
        except Exception as error:  # the request's own fault, not the child's
            if not isinstance(message, Submit):
                raise
            refusal = InvalidRequest(f"the request cannot be sent to the model: {error}")
            self._deliver(StepOutput(message.id, error=refusal))
            return None

    def _send_all(self, child: Child, frame: bytes) -> bool:
        """Send a frame however long it takes; False once the child is gone."""
        view = memoryview(frame)
        while view:
            try:
                view = view[child.sock.send(view) :]
            except TimeoutError:
                continue
            except OSError:
                return False
        return True

    def _discard(self) -> bool:
        """Kill what is left of the child and wait for it; whether it is gone."""
        child = self._child
        if child is None:
            return True
        child.kill()
        gone = child.reap(self._deadlines.exit)
        self._status = EngineStatus()
        self._outbox.put(None)
        child.end_of_talk()
        self._writer.join()
        child.sock.close()
        return gone

    def _end_of_child(self) -> str:
        child = self._child
        assert child is not None
        child.reap(1.0)
        return child.how_it_ended()

    def _exit_error(self) -> HelexaError:
        return EngineLost(
            f"the model's process {self._end_of_child()}",
            hint="send the request again in a moment",
        )

    def _refuse(self, reason: HelexaError) -> None:
        with self._gate:
            if self._ended is None:
                self._ended = reason

    def _end_all(self, reason: HelexaError) -> None:
        with self._gate:
            left, self._open = self._open, {}
        for request_id, deliver in left.items():
            hand_to(deliver, StepOutput(request_id, error=reason))
