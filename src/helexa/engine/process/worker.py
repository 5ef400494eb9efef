"""The child process: loads one model, serves it, and dies with its parent.

``python -m helexa.engine.process.worker FD PARENT_PID LEVEL [MODULE:FUNCTION]``: the socket to talk
on, who is at its other end, from which level on to log, and what builds the core from a `Build`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from helexa.engine import core_loop
from helexa.engine.core_loop import Core, CoreLoop
from helexa.engine.outputs import EngineFacts, EngineStatus, Request, StepOutput
from helexa.engine.process.child_log import log_to_parent
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
    read,
    write,
)
from helexa.engine.process.preparing import Preparation
from helexa.errors import EngineLost, HelexaError, LoadError, ProtocolError

BEAT_S: Final = 0.25
PROGRESS_EVERY_S: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1

Report = Callable[[str, int, int | None], None]
BuildCore = Callable[[Build, Report], Core]

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Serve one model on the socket, then leave without waiting for anything."""
    fd, parent, level, *builder = arguments
    die_with(int(parent))
    log_to_parent(int(level))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    os.dup2(2, 1)  # whatever prints, prints to the log
    build = named(builder[0]) if builder else build_from_checkpoint()
    with socket.socket(fileno=int(fd)) as sock:
        Worker(sock, build).run()
    sys.stderr.flush()
    os._exit(0)  # a wedged driver must not keep what the parent waits for


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even while it is stopped.

    Where there is no such call, the end of the socket does it (see `Worker`).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be noticed
        os._exit(1)


def named(name: str) -> BuildCore:
    """The function behind ``module:function``."""
    module, _, function = name.partition(":")
    found: BuildCore = getattr(importlib.import_module(module), function)
    return found


def build_from_checkpoint() -> BuildCore:
    """How a real core is built; makes torch ready before anybody asks."""
    from helexa.engine.build import build_core

    return lambda order, report: build_core(order.model, order.config, progress=report)


class TimedCore:
    """A core that tells how long its current step has been running."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._began: float | None = None

    @property
    def facts(self) -> EngineFacts:
        return self._core.facts

    @property
    def idle(self) -> bool:
        return self._core.idle

    @property
    def step_s(self) -> float | None:
        began = self._began
        return None if began is None else time.monotonic() - began

    def prepare(self, request: Request) -> None:
        self._core.prepare(request)

    def submit(self, request: Request) -> int:
        return self._core.submit(request)

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        self._core.abort(request_id, completed=completed)

    def step(self) -> list[StepOutput]:
        self._began = time.monotonic()
        try:
            return self._core.step()
        finally:
            self._began = None

    def status(self) -> EngineStatus:
        return self._core.status()

    def close(self) -> None:
        self._core.close()


class Worker:
    """One model's life on a socket.

    The calling thread builds and steps the core; one thread reads, one says that we are alive, and
    grammars are compiled on others, see `Preparation`.
    """

    def __init__(self, sock: socket.socket, build: BuildCore) -> None:
        self._sock = sock
        self._build = build
        self._frames = FrameReader(sock)
        self._inbox: SimpleQueue[core_loop.Message] = SimpleQueue()
        self._sending = threading.Lock()
        self._outputs: list[StepOutput] = []
        self._status = EngineStatus()
        self._told = self._status
        self._reported_s = 0.0
        self._end: HelexaError = EngineLost("the engine ended without a reason")

    def run(self) -> None:
        """Wait for the order to build, then serve until told to close or until the core fails."""
        order = self._read()
        if not isinstance(order, Build):
            raise ProtocolError(f"expected the order to build, got {order!r:.80}")
        threading.Thread(target=self._listen, name="helexa-listen", daemon=True).start()
        try:
            core = TimedCore(self._build(order, self._report))
        except HelexaError as error:
            self._send(Ended(error))
            return
        except Exception as error:  # the edge of the process: the parent is told, whatever it was
            self._send(Ended(LoadError(f"loading failed: {type(error).__name__}: {error}")))
            raise
        self._status = self._told = core.status()
        self._preparation = Preparation(core.prepare, self._inbox.put)
        self._send(Built(core.facts, self._status))
        threading.Thread(target=self._beat, args=(core,), name="helexa-alive", daemon=True).start()
        CoreLoop(core, self._inbox, self._publish, self._flush).run(self._refuse)
        self._send(Ended(self._end))

    def _read(self) -> object:
        body = self._frames.read()
        if body is None:
            os._exit(0)  # nobody is left to work for
        return read(body)

    def _listen(self) -> None:
        try:
            while True:
                match self._read():
                    case Submit(id, request):
                        wanted = core_loop.Submit(id, request, self._outputs.append)
                        self._preparation.submit(wanted)
                    case Abort(id, completed):
                        self._preparation.abort(core_loop.Abort(id, completed))
                    case Close():
                        self._inbox.put(core_loop.Close())
                    case other:
                        raise ProtocolError(f"the parent sent {other!r:.80}")
        except BaseException:  # a child that hears nothing must not live on
            log.exception("the line to the parent broke")
            sys.stderr.flush()
            os._exit(1)

    def _beat(self, core: TimedCore) -> None:
        while True:
            time.sleep(BEAT_S)
            self._send(Alive(self._status, core.step_s))

    def _publish(self, status: EngineStatus) -> None:
        self._status = status

    def _flush(self) -> None:
        changed = self._status is not self._told
        if not self._outputs and not changed:
            return
        outputs = tuple(self._outputs)
        self._outputs.clear()
        self._told = self._status
        self._send(Outputs(outputs, self._status if changed else None))

    def _refuse(self, reason: HelexaError) -> None:
        self._end = reason

    def _report(self, name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done == total or now - self._reported_s > PROGRESS_EVERY_S:
            self._reported_s = now
            self._send(Progress(name, done, total))

    def _send(self, message: FromChild) -> None:
        frame = write(message)
        try:
            with self._sending:
                self._sock.sendall(frame)
        except OSError:
            os._exit(1)  # the parent is gone


if __name__ == "__main__":
    main(sys.argv[1:])
