"""Progress for people: bars on a terminal, silence anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from helexa.engine.checkpoint.files import KERNELS, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars


@contextmanager
def loading_bars(given: Progress | None, stream: TextIO | None = None) -> Iterator[Progress]:
    """The caller's own progress callback, else bars on ``stream`` (stderr) if it is a terminal."""
    stream = sys.stderr if stream is None else stream
    if given is not None:
        yield given
        return
    if not stream.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console

    with byte_bars(Console(file=stream)) as bars:
        tasks: dict[str, object] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]  # a TaskID

        yield show


@contextmanager
def counting_bar(
    label: str, total: int, *, show: bool | None, stream: TextIO | None = None
) -> Iterator[Callable[[int], None]]:
    """A bar over ``total`` items, advanced by what it yields; ``show`` None asks the terminal."""
    stream = sys.stderr if stream is None else stream
    if not (stream.isatty() if show is None else show) or total < 2:
        yield lambda tokens: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[tokens]} tokens"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task(label, total=total, tokens=0)
        seen = 0

        def advance(tokens: int) -> None:
            nonlocal seen
            seen += tokens
            bars.update(task, advance=1, tokens=seen)

        yield advance


def byte_bars(console: Console, *, transient: bool = True) -> Bars:
    """Bars for files that are read, with bytes, speed and time left, and for kernels, counted."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Amount(DownloadColumn):
        """Bytes, or how many of them where they are kernels."""

        def render(self, task: Task) -> Text:
            if task.description == KERNELS:
                return Text(f"{int(task.completed)}/{int(task.total or 0)}")
            return super().render(task)

    class Speed(TransferSpeedColumn):
        """Of bytes."""

        def render(self, task: Task) -> Text:
            return Text() if task.description == KERNELS else super().render(task)

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Amount(binary_units=True),
        Speed(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )
