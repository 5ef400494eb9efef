"""Child processes: started with nothing of the parent in them, one kept warm, none left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import helexa
from helexa.engine.process.child_log import level_to_log, relay

WORKER = "helexa.engine.process.worker"
LOOK_EVERY_S = 0.005

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """A started worker in a process group of its own, and the socket to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to the whole group; nothing happens once it is reaped."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end_of_talk(self) -> None:
        """Wake whoever is waiting to send or receive on the socket."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def reap(self, timeout_s: float) -> bool:
        """Wait for the process to be gone; whether it is. What is left of its group is killed."""
        until = time.monotonic() + timeout_s
        while not self._has_ended():
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK_EVERY_S)
        self.kill()  # before its number is free for another group
        self.process.wait()
        return True

    def _has_ended(self) -> bool:
        """Whether the process runs no more, and keeps its number where that can be had."""
        if self.process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return self.process.poll() is not None
        try:
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.process.pid, how) is not None
        except ChildProcessError:
            return True

    def how_it_ended(self) -> str:
        """How a process that is gone ended, for people."""
        code = self.process.returncode
        if code is None:
            return "is still running"
        if code < 0:
            return f"was killed by {signal_name(-code)}"
        return f"exited with status {code}"


def signal_name(number: int) -> str:
    """What a signal is called; those for real time have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Starter:
    """A thread that does one thing after the other.

    It is there until it is closed or the process is gone. The thread of an executor is not: Python
    ends that before the program's own threads, which may be using a model.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="helexa-nursery", daemon=True)
        self._gate = threading.Lock()
        self._closed = False

    def run(self, do: Callable[[], Result]) -> Future[Result]:
        """Have it done; raises RuntimeError after `close`."""
        future: Future[Result] = Future()

        def settle() -> None:
            try:
                future.set_result(do())
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)

        with self._gate:
            if self._closed:
                raise RuntimeError("no more processes are started here")
            if self._thread.ident is None:
                self._thread.start()
            self._work.put(settle)
        return future

    def close(self) -> None:
        """Let it do what it was given, and end."""
        with self._gate:
            self._closed = True
            self._work.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (do := self._work.get()) is not None:
            do()


class Nursery:
    """Starts children, all from one thread that lives as long as this object.

    The kernel kills a child when the thread that started it ends (see `worker.die_with`), so no
    other thread may. With ``warm`` one child is started ahead, with torch imported, for the next
    who needs one. ``builder`` is the worker's, for tests.
    """

    def __init__(self, *, warm: bool = True, builder: str | None = None) -> None:
        self.warm = warm
        self._builder = builder
        self._spare: Child | None = None
        self._closed = False
        self._gate = threading.Lock()
        self._starter = Starter()

    def take(self) -> Child:
        """A child that waits for its order: the spare one, or a new one."""
        with self._gate:
            spare, self._spare = self._spare, None
        if spare is not None:
            if spare.process.poll() is None:
                return spare
            spare.sock.close()
        return self._starter.run(self._start).result()

    def prepare(self) -> None:
        """Start a spare child if there is none; does not wait for it."""
        if self.warm and not self._closed:
            self._starter.run(self._keep_spare)

    def close(self) -> None:
        """End the spare child; those that were taken must be gone by then."""
        self._closed = True
        self._starter.close()
        with self._gate:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.kill()
            spare.reap(5.0)
            spare.sock.close()

    def _keep_spare(self) -> None:
        with self._gate:
            present = self._spare is not None
        if not present and not self._closed:
            try:
                child = self._start()
            except OSError as error:  # nobody waits for it; who needs one will try again
                log.warning("no process could be started ahead: %s", error)
                return
            with self._gate:
                self._spare = child

    def _start(self) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-P", "-m", WORKER, str(fd), str(os.getpid())]
            command += [str(level_to_log())]
            command += [self._builder] if self._builder else []
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(fd,),
                    start_new_session=True,
                    env=environment(),
                )
            except BaseException:
                ours.close()
                raise
        assert process.stderr is not None
        said = (process.stderr, process.pid)
        threading.Thread(target=relay, args=said, name="helexa-child-log", daemon=True).start()
        return Child(process, ours)


def environment() -> dict[str, str]:
    """The parent's environment, in which the child finds the same helexa."""
    here = str(Path(helexa.__file__).parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
