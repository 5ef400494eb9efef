"""A stream whose reader may stop reading without stopping who writes."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

MOST_LINES = 4096
GATHER_S = 0.02

log = logging.getLogger(__name__)


class PatientWriter:
    """Writes to a stream from a thread of its own, what comes within ``gather_s`` seconds at once.

    A terminal that was halted and a pipe that nobody reads block whoever writes to them. Here that
    is one thread: ``most`` writes wait, and what comes on top is lost, which is logged once the
    stream takes something again. A stream that is closed or full loses everything. A text that is
    made by the thread, with others of its kind, takes a third of the time that it takes elsewhere.
    """

    def __init__(
        self, stream: TextIO | None, most: int = MOST_LINES, gather_s: float = GATHER_S
    ) -> None:
        self._write = _writer(stream)
        self._most, self._gather_s = most, gather_s
        self._waiting: deque[Callable[[], str]] = deque()
        self._lost = 0
        self._writing = False
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._written = threading.Condition()
        threading.Thread(target=self._run, name="helexa-log", daemon=True).start()

    def write(self, text: str) -> None:
        """Have it written; returns at once."""
        self.write_later(lambda: text)

    def write_later(self, make: Callable[[], str]) -> None:
        """Have written what ``make`` returns, which is called by the thread; returns at once."""
        if len(self._waiting) >= self._most:
            self._lost += 1
            return
        self._waiting.append(make)
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """For `logging`, which flushes after each line: the thread does it."""

    def finish(self, timeout_s: float = 1.0) -> bool:
        """Wait until all is written, if the stream takes it in time; whether it did."""
        self._hurry.set()
        with self._written:
            return self._written.wait_for(
                lambda: not self._waiting and not self._writing, timeout_s
            )

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._hurry.wait(self._gather_s)
            self._some.clear()
            self._writing = True
            texts = []
            while self._waiting:
                texts.append(_made(self._waiting.popleft()))
            try:
                self._write("".join(texts))
            except (OSError, ValueError):  # nobody is left who could be told
                self._lost = 0
            lost, self._lost = self._lost, 0
            with self._written:
                self._writing = False
                self._written.notify_all()
            if lost:
                log.warning("%d lines of this log were lost: its reader had stopped", lost)


def _made(make: Callable[[], str]) -> str:
    try:
        return make()
    except Exception as error:  # the edge of a thread: one bad line must not end the log
        return f"a line of this log could not be written ({type(error).__name__})\n"


def _writer(stream: TextIO | None) -> Callable[[str], object]:
    """What writes to a stream: past its buffer, whose lock a halted thread would keep at exit."""
    if stream is None:
        return len
    try:
        fd = stream.fileno()
    except io.UnsupportedOperation:
        return stream.write
    except ValueError:  # it is closed
        return len

    def write(text: str) -> None:
        left = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
        while left:
            left = left[os.write(fd, left) :]

    return write


@contextmanager
def patient(stream: TextIO | None) -> Iterator[PatientWriter]:
    """A writer to a stream, which at the end has a second to write what is left."""
    writer = PatientWriter(stream)
    try:
        yield writer
    finally:
        writer.finish()
