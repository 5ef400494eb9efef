"""What steps are made of: a trace for a viewer, and a table of their operators.

The trace is a JSON document of Chrome's Trace Event Format, which https://ui.perfetto.dev opens.
Profiling makes every operator a few microseconds dearer, so the shares tell more than the times.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.readings import markdown

PREFILL, DECODE = "prefill", "decode step"
PYTHON = "between operators"
SHOWN = 16


@dataclass(frozen=True, slots=True)
class Operator:
    """What an operator itself took in an average step, without those that it called.

    ``PYTHON`` is what none took. On a GPU times are those of the host, which launches.
    """

    name: str
    ms: float
    calls: float


def profiled(works: Iterable[tuple[str, Callable[[], object]]], to: Path) -> list[Operator]:
    """Run named works, write their trace; → what the works named ``DECODE`` were made of.

    The dearest operator is first. Raises ValueError if no work has that name.
    """
    with torch.profiler.profile(activities=torch.profiler.supported_activities()) as profile:
        for name, work in works:
            with torch.profiler.record_function(name):
                work()
    profile.export_chrome_trace(str(to))
    return operators(profile.events())


def operators(events: Iterable[Any]) -> list[Operator]:
    """The operators within the ranges named ``DECODE``, per range."""
    everything = list(events)
    steps = sorted(
        (event.time_range.start, event.time_range.end)
        for event in everything
        if event.name == DECODE and event.device_type == torch.autograd.DeviceType.CPU
    )
    if not steps:
        raise ValueError(f"no work is named {DECODE!r}")
    starts = [start for start, _ in steps]
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in everything:
        at = bisect.bisect_right(starts, event.time_range.start) - 1
        inside = at >= 0 and event.time_range.end <= steps[at][1]
        if inside and event.device_type == torch.autograd.DeviceType.CPU:
            name = PYTHON if event.name == DECODE else event.name
            spent[name] += event.self_cpu_time_total / 1e3
            calls[name] += 1
    found = [
        Operator(name, ms / len(steps), calls[name] / len(steps)) for name, ms in spent.items()
    ]
    return sorted(found, key=lambda one: -one.ms)


def table(found: list[Operator], layers: int) -> str:
    """The dearest operators, the rest as one, and all of them."""
    total = sum(one.ms for one in found)
    rest = found[SHOWN:]
    lines = found[:SHOWN]
    if rest:
        name = f"{len(rest)} more"
        lines.append(Operator(name, sum(o.ms for o in rest), sum(o.calls for o in rest)))
    called = sum(one.calls for one in found if one.name != PYTHON)
    rows = []
    for one in (*lines, Operator("all", total, called)):
        counts = (
            ("", "") if one.name == PYTHON else (f"{one.calls:.0f}", f"{one.calls / layers:.1f}")
        )
        rows.append([one.name, f"{one.ms:.2f}", f"{one.ms / total:.0%}", *counts])
    return markdown(("a decode step", "ms", "of it", "calls", "calls a layer"), rows)


def document(found: list[Operator], layers: int) -> list[dict[str, object]]:
    """Every operator of an average decode step, for a result: calls in a layer, microseconds."""
    return [
        {
            "operator": one.name,
            "calls": one.calls,
            "calls_per_layer": one.calls / layers,
            "us": one.ms * 1e3,
            "us_per_call": one.ms * 1e3 / one.calls,
        }
        for one in found
    ]


def beside(file: Path, part: str) -> Path:
    """A file of its own for one of several profiles: trace.json → trace-q8_0.json."""
    return file.with_name(f"{file.stem}-{part.replace(' ', '-').lower()}{file.suffix}")
