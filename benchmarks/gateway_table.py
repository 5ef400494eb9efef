"""What a run of the gateway benchmark found, as one table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.readings import markdown, spread

DIRECT = "direct"
OURS = "helexa gateway"


@dataclass(frozen=True, slots=True)
class Reading:
    """One contender, one kind of work, one round; ``cpu_us`` of it per request, if known."""

    contender: str
    work: str
    round: int
    count: int
    per_second: float
    median_ms: float
    p99_ms: float
    first_byte_ms: float
    cpu_us: float | None


@dataclass(frozen=True, slots=True)
class Start:
    """Until it listened, until it answered a chat; memory then, and after all work."""

    contender: str
    listening_ms: float
    answering_ms: float
    resident_mb: float | None
    worked_mb: float | None


def table(readings: Sequence[Reading], starts: Sequence[Start], absent: Mapping[str, str]) -> str:
    """Medians over the rounds; ratios are medians of those within each, with least and most."""
    names = list(dict.fromkeys(reading.contender for reading in readings))
    rows: list[list[str]] = []
    for work in dict.fromkeys(reading.work for reading in readings):
        found = _Work(work, readings)
        if work == "first byte":
            rows.append(found.row("first byte, ms", names, lambda item: item.first_byte_ms, ".2f"))
            continue
        rows.append(found.row(f"{work}, per second", names, lambda item: item.per_second, ".0f"))
        if OURS in names:
            rows.append(found.ratios(names))
        rows.append(found.row("median, ms", names, lambda item: item.median_ms, ".2f"))
        rows.append(found.row("99 %, ms", names, lambda item: item.p99_ms, ".2f"))
        rows.append(found.row("CPU each, µs", names, lambda item: item.cpu_us, ".0f"))
    by_name = {start.contender: start for start in starts}
    for title, value in _STARTS.items():
        rows.append([title, *[_text(by_name.get(name), value) for name in names]])
    lines = [
        markdown(["", *names], rows),
        "",
        *[f"absent: {name} ({reason})" for name, reason in absent.items()],
    ]
    return "\n".join(lines).rstrip()


_STARTS: dict[str, Callable[[Start], float | None]] = {
    "listening after, ms": lambda start: start.listening_ms,
    "answering after, ms": lambda start: start.answering_ms,
    "resident at first, MB": lambda start: start.resident_mb,
    "resident after it, MB": lambda start: start.worked_mb,
}


def _text(start: Start | None, value: Callable[[Start], float | None]) -> str:
    found = None if start is None else value(start)
    return "" if found is None else f"{found:.0f}"


class _Work:
    """The readings of one kind of work."""

    def __init__(self, work: str, readings: Sequence[Reading]) -> None:
        self._work = work
        self._readings = [reading for reading in readings if reading.work == work]

    def row(
        self, title: str, names: Sequence[str], value: Callable[[Reading], float | None], form: str
    ) -> list[str]:
        """The median of each contender."""
        cells = []
        for name in names:
            found = [value(item) for item in self._readings if item.contender == name]
            known = [item for item in found if item is not None]
            cells.append(format(statistics.median(known), form) if known else "")
        return [title, *cells]

    def ratios(self, names: Sequence[str]) -> list[str]:
        """How many times as many our gateway does."""
        rates = {(item.contender, item.round): item.per_second for item in self._readings}
        turns = sorted({item.round for item in self._readings})
        cells = []
        for name in names:
            ratios = [rates[OURS, turn] / rates[name, turn] for turn in turns]
            cells.append("" if name == OURS else spread(ratios))
        return ["helexa gateway does", *cells]
