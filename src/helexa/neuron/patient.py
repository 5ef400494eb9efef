"""A stream whose reader may stop reading without stopping who writes."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from typing import TextIO

MOST_LINES = 4096

log = logging.getLogger(__name__)


class PatientWriter:
    """Writes to a stream from a thread of its own.

    A terminal that was halted and a pipe that nobody reads block whoever writes to them. Here that
    is one thread: ``most`` writes wait, and what comes on top is lost, which is logged once the
    stream takes something again. A stream that is closed or full loses everything.
    """

    def __init__(self, stream: TextIO | None, most: int = MOST_LINES) -> None:
        self._write = _writer(stream)
        self._waiting: Queue[str] = Queue(most)
        self._lost = 0
        threading.Thread(target=self._run, name="helexa-log", daemon=True).start()

    def write(self, text: str) -> None:
        """Have it written; returns at once."""
        try:
            self._waiting.put_nowait(text)
        except Full:
            self._lost += 1

    def flush(self) -> None:
        """For `logging`, which flushes after each line: the thread does it."""

    def finish(self, timeout_s: float = 1.0) -> bool:
        """Wait until all is written, if the stream takes it in time; whether it did."""
        done = self._waiting.all_tasks_done
        with done:
            return done.wait_for(lambda: not self._waiting.unfinished_tasks, timeout_s)

    def _run(self) -> None:
        while True:
            text = self._waiting.get()
            try:
                self._write(text)
            except (OSError, ValueError):  # nobody is left who could be told
                self._lost = 0
            lost, self._lost = self._lost, 0
            self._waiting.task_done()
            if lost:
                log.warning("%d lines of this log were lost: its reader had stopped", lost)


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
