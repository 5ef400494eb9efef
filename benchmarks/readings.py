"""What a benchmark found, as a JSON document or a table: the command line that some share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")


def arguments(described: str | None) -> argparse.ArgumentParser:
    """A command line that takes `--json`; ``described`` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", metavar="PATH", help="write the readings there; - for stdout")
    return parser


def publish(
    to: str | None,
    about: Mapping[str, object],
    rows: Sequence[Row],
    columns: Mapping[str, Callable[[Row], str]],
) -> None:
    """Print a table of dataclasses; or, ``to`` being `-`, a JSON document of them.

    Any other ``to`` is where the document goes, too. ``about`` is its head, after today's date.
    """
    listed: list[Any] = [*rows]
    document = {
        "date": date.today().isoformat(),
        **about,
        "rows": [asdict(row) for row in listed],
    }
    text = json.dumps(document, indent=1)
    if to == "-":
        print(text)
        return
    if to:
        Path(to).write_text(text + "\n")
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[show(row) for show in columns.values()] for row in rows]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
