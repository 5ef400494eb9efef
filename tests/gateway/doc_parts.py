"""The parts of a page that can be checked: its tables, and its blocks of TOML."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Table = list[dict[str, str]]


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text("utf-8")


def toml_blocks(text: str) -> list[str]:
    """The TOML of a page, block by block."""
    return FENCE.findall(text)


def tables(text: str) -> list[Table]:
    """The tables of a page: rows by the names of their columns."""
    found = []
    for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith("|")):
        if is_table:
            names, _, *rows = map(cells, lines)
            found.append([dict(zip(names, row, strict=True)) for row in rows])
    return found


def table(text: str, *columns: str) -> Table:
    """The rows of all tables that have these columns, one after the other."""
    rows = [row for each in tables(text) for row in each if set(columns) <= set(row)]
    assert rows, f"no table has the columns {columns}"
    return rows


def cells(line: str) -> list[str]:
    """The cells of one line; a bar that is escaped is part of its cell."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code(cell: str) -> list[str]:
    """What a cell has between backquotes."""
    return re.findall(r"`([^`]+)`", cell)
