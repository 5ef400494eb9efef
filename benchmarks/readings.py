"""What benchmarks share: options that are refused at once, a result's head, tables and documents.

A result goes to a file, or to standard output (`-`): its table goes to standard error then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
STDOUT = "-"


def arguments(described: str | None) -> argparse.ArgumentParser:
    """A command line that takes `--json`; ``described`` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        *("--json",),
        type=json_target,
        metavar="PATH",
        help="write the readings there; - for stdout, and the table to stderr",
    )
    return parser


def at_least(least: int) -> Callable[[str], int]:
    """A type of options: whole numbers that are not below ``least``."""

    def whole(given: str) -> int:
        with suppress(ValueError):
            if (number := int(given)) >= least:
                return number
        raise argparse.ArgumentTypeError(f"{given!r} is no whole number from {least} on")

    return whole


positive = at_least(1)


def above_zero(given: str) -> float:
    """A type of options: seconds, say."""
    with suppress(ValueError):
        if 0 < (number := float(given)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{given!r} is no number above 0")


def not_negative(given: str) -> float:
    """A type of options: what something costs, which may be nothing."""
    with suppress(ValueError):
        if 0 <= (number := float(given)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{given!r} is no number from 0 on")


def share(given: str) -> float:
    """A type of options: a part of a whole, which neither is nothing nor all."""
    with suppress(ValueError):
        if 0 < (number := float(given)) < 1:
            return number
    raise argparse.ArgumentTypeError(f"{given!r} is no number between 0 and 1")


def new_file(given: str) -> Path:
    """A type of options: a file that can be written. One that is there stays as it is for now."""
    path = Path(given)
    try:
        there = path.exists()
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {given}: {error.strerror}") from None
    return path


def json_target(given: str) -> str:
    """A type of options: `-`, or a file that can be written."""
    if given != STDOUT:
        new_file(given)
    return given


def old_file(given: str) -> Path:
    """A type of options: a file that can be read."""
    try:
        with Path(given).open("rb"):
            return Path(given)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {given}: {error.strerror}") from None


def old_folder(given: str) -> Path:
    """A type of options: a folder that is there, in which files can be made."""
    if not (Path(given).is_dir() and os.access(given, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{given} is no folder that can be written to")
    return Path(given)


def new_folder(given: str) -> Path:
    """A type of options: a folder, which is made when something is put there."""
    path = Path(given)
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{given} is no folder, and cannot be made one")
    return path


def about() -> dict[str, Any]:
    """What a figure is worth nothing without: when, where and by which command it was measured.

    Of torch only where a benchmark has imported it.
    """
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(
            ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "machine": f"{os.cpu_count()} × {processor()}",
        "python": platform.python_version(),
    }
    if torch := sys.modules.get("torch"):
        found |= {
            "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }
    return found


def processor() -> str:
    """The model of the processor, as Linux names it; elsewhere its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def spread(values: Sequence[float], form: str = ".2f", unit: str = " ×") -> str:
    """The median over the rounds and, of several, the least and the most: `1.05 × (0.97–1.12)`."""
    middle = f"{format(statistics.median(values), form)}{unit}"
    if len(values) < 2:
        return middle
    return f"{middle} ({format(min(values), form)}–{format(max(values), form)})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns, but for the first, are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def say(to: str | None, *texts: str) -> None:
    """Print for people: where no document is."""
    print(*texts, sep="\n", file=sys.stderr if to == STDOUT else sys.stdout)


def write(to: str | None, document: Mapping[str, object] | str) -> None:
    """Write a result, or the text of one, to where `--json` says."""
    text = (
        document
        if isinstance(document, str)
        else json.dumps(document, indent=1, ensure_ascii=False)
    )
    if to == STDOUT:
        print(text.rstrip("\n"))
    elif to:
        Path(to).write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def publish(
    to: str | None,
    facts: Mapping[str, object],
    rows: Sequence[Row],
    columns: Mapping[str, Callable[[Row], str]],
) -> None:
    """Print a table of dataclasses, and write a JSON document of them to where `--json` says.

    ``facts`` are added to its head, see `about`.
    """
    listed: list[Any] = [*rows]
    say(to, markdown([*columns], [[show(row) for show in columns.values()] for row in rows]))
    write(to, {**about(), **facts, "rows": [asdict(row) for row in listed]})
