"""How output looks: colour or none, sizes in words, what a terminal must not be sent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Control characters that could move the cursor or recolour the terminal; \n and \t stay.
_CONTROLS = {
    code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"
}

NARROW = 80  # columns, below which a table is not forced into the terminal


def is_terminal(stream: IO[Any]) -> bool:
    """Whether a person is at the other end."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def colour(stream: IO[Any], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether escape codes may be written: a terminal that can, and no NO_COLOR."""
    return is_terminal(stream) and not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"


def styled(text: str, stream: IO[Any], **style: Any) -> str:
    """``text`` in a style of ``click.style`` where the stream shows it, else as it is."""
    return click.style(text, **style) if text and colour(stream) else text


def printable(text: str) -> str:
    """Text of a model without control characters, for a terminal."""
    return text.translate(_CONTROLS)


def console(stream: IO[str]) -> Console:
    """A rich console on a stream, plain where ``colour`` says so and never wrapping in a pipe."""
    from rich.console import Console

    return Console(
        file=stream,
        color_system="auto" if colour(stream) else None,
        no_color=not colour(stream),
        width=None if is_terminal(stream) else 200,
        highlight=False,
        markup=False,
        emoji=False,
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers stand at the right of their column."""

    name: str
    number: bool = False


def show_rows(out: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table; where the terminal is too narrow for one, a block of lines for each row."""
    widths = [max(map(len, cells)) for cells in zip([c.name for c in columns], *rows, strict=True)]
    if out.width < min(NARROW, sum(widths) + 2 * len(widths)):
        blocks = (
            "\n".join(f"{column.name}: {cell}".strip() for column, cell in cells if cell)
            for cells in (list(zip(columns, row, strict=True)) for row in rows)
        )
        out.file.write("\n\n".join(blocks) + "\n")
        return
    show(out, table(columns, rows))


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table without lines."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.number else "left"
        made.add_column(column.name, justify=justify, no_wrap=column.number, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def show(out: Console, what: RenderableType) -> None:
    """Print a table without the spaces that pad its last column."""
    with out.capture() as capture:
        out.print(what)
    out.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def size(num_bytes: float) -> str:
    """Bytes in words: ``512 B``, ``3.9 MiB``, ``15.3 GiB``."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        num_bytes /= 1024
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} TiB"


def count(number: int) -> str:
    """A count in words: ``950``, ``12.3k``, ``4.1M``, ``596M``, ``30.5B``."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**4, "k")):
        if number >= limit:
            scaled = number / (1000 if unit == "k" else limit)
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return str(number)
