"""Downloads and loading as they happen: bars on a terminal, lines or nothing elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

import click

from helexa.cli.terminal import console, is_terminal, size
from helexa.engine.checkpoint.files import KERNELS
from helexa.progress import byte_bars

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Reporter(Protocol):
    """Takes the library's progress calls from any thread."""

    def __call__(self, file: str, done_bytes: int, total_bytes: int | None) -> None: ...


class Bars:
    """Bars with bytes, speed and time left; nothing is drawn before the first byte.

    One per name, or ``merged`` into a single one that is gone at the end: but for kernels that are
    compiled, which are no bytes.
    """

    def __init__(self, stream: IO[str], *, merged: bool = False) -> None:
        self._stream = stream
        self._merged = merged
        self._lock = threading.Lock()
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._parts: dict[str, tuple[int, int | None]] = {}

    def __call__(self, file: str, done_bytes: int, total_bytes: int | None) -> None:
        with self._lock:
            bars = self._started()
            merged = self._merged and file != KERNELS
            key = "" if merged else file
            done, total = done_bytes, total_bytes
            if merged:
                self._parts[file] = done, total
                done, total = self._sum()
            if key not in self._tasks:
                self._tasks[key] = bars.add_task(file, total=total)
            bars.update(self._tasks[key], description=file, completed=done, total=total)

    def close(self) -> None:
        """Leave the last state on the screen."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    def _sum(self) -> tuple[int, int | None]:
        totals = [total for _, total in self._parts.values()]
        known = [total for total in totals if total is not None]
        done = sum(done for done, _ in self._parts.values())
        return done, sum(known) if len(known) == len(totals) else None

    def _started(self) -> RichProgress:
        if self._bars is None:
            self._bars = byte_bars(console(self._stream), transient=self._merged)
            self._bars.start()
        return self._bars


class Lines:
    """A line for each file when it is whole."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._done: set[str] = set()

    def __call__(self, file: str, done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes == total_bytes and file not in self._done:
            self._done.add(file)
            click.echo(f"{file} {size(done_bytes)}", file=self._stream)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def download_progress(stream: IO[str]) -> Iterator[Reporter]:
    """A reporter that suits the stream, for as long as the block runs."""
    reporter = Bars(stream) if is_terminal(stream) else Lines(stream)
    try:
        yield reporter
    finally:
        reporter.close()


@contextmanager
def load_progress(stream: IO[str]) -> Iterator[Reporter | None]:
    """One passing bar on a terminal while a model is fetched and read; nothing elsewhere."""
    if not is_terminal(stream):
        yield None
        return
    bars = Bars(stream, merged=True)
    try:
        yield bars
    finally:
        bars.close()
