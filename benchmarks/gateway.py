"""How many chats per second a gateway passes on, what each costs, and how others do.

    python -m benchmarks.gateway                                # helexa and nginx, two minutes
    python -m benchmarks.gateway --peers-python VENV/bin/python --json -

One run, in turns: `helexa gateway` (a key, budgets metered in SQLite), the relay of helexa.http
without any policy, a relay of Starlette, uvicorn and httpx, the LiteLLM proxy, nginx, and the mock
neuron asked directly, which shows what asking and mock can do. With two cores or more, whoever is
measured has one core, those who ask and answer have another.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import readings
from benchmarks.gateway_contenders import (
    CONTENDERS,
    Contender,
    DidNotStart,
    Running,
    compile_ours,
    running,
)
from benchmarks.gateway_load import Load, run_load
from benchmarks.gateway_table import DIRECT, Reading, Start, table

READY_S = 60.0
WORKS = {
    "JSON, 16 connections": Load(16),
    "JSON, 1 connection": Load(1),
    "streams, 8 connections": Load(8, stream=True),
    "streams, 1 connection": Load(1, stream=True),
    "first byte": Load(1, stream=True, pause=True),
}


@contextmanager
def mock(core: int | None) -> Iterator[str]:
    """A mock neuron in a process of its own; its URL."""
    command = [sys.executable, "-m", "benchmarks.gateway_mock"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def cores() -> tuple[int | None, int | None]:
    """One for who is measured, one for who asks and answers; nothing if there is only one."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None, None
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def answering_s(url: str) -> float:
    """Seconds until a chat is answered."""
    began = time.perf_counter()
    while True:
        try:
            asyncio.run(run_load(url, Load(1), 0.0))
            return time.perf_counter() - began
        except OSError:  # not ready: it has not looked at its neurons, say
            if time.perf_counter() - began > READY_S:
                raise
            time.sleep(0.02)


def measure(name: str, url: str, work: str, seconds: float, turn: int) -> Reading:
    """One reading; of what runs at that URL."""
    result = asyncio.run(run_load(url, WORKS[work], seconds))
    latencies = sorted(result.latencies_s)
    return Reading(
        contender=name,
        work=work,
        round=turn,
        count=result.count,
        per_second=result.count / result.elapsed_s,
        median_ms=statistics.median(latencies) * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
        first_byte_ms=statistics.median(result.first_bytes_s) * 1e3,
        cpu_us=None,
    )


class Arena:
    """All contenders, running, in front of one mock."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self.options = options
        self.absent: dict[str, str] = {}
        self.running: dict[str, Running] = {}
        self.starts: dict[str, Start] = {}
        core, ours = cores()
        if ours is not None:
            os.sched_setaffinity(0, {ours})
        self.mock = stack.enter_context(mock(ours))
        answering_s(self.mock)
        compile_ours()
        for contender in CONTENDERS:
            if options.only and contender.name not in options.only:
                reason = "it was not asked for"
            else:
                reason = contender.absent(options.peers_python)
            try:
                if not reason:
                    self._start(contender, stack, core)
            except DidNotStart as error:
                if not contender.peer:
                    raise SystemExit(f"{contender.name}: {error}\n{error.said[-2000:]}") from error
                reason = str(error)
            if reason:
                self.absent[contender.name] = reason

    def _start(self, contender: Contender, stack: ExitStack, core: int | None) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = stack.enter_context(
            running(contender, self.mock, folder, self.options.peers_python, core)
        )
        waited_s = answering_s(started.url)
        time.sleep(0.5)
        self.running[contender.name] = started
        self.starts[contender.name] = Start(
            contender.name,
            started.listening_s * 1e3,
            (started.listening_s + waited_s) * 1e3,
            started.resident_mb(),
            None,
        )

    def read(self, name: str, work: str, turn: int) -> Reading:
        """One turn of one contender."""
        seconds = self.options.seconds
        if name == DIRECT:
            return measure(name, self.mock, work, seconds, turn)
        contender = self.running[name]
        before = contender.cpu_s()
        reading = measure(name, contender.url, work, seconds, turn)
        after = contender.cpu_s()
        if before is None or after is None:
            return reading
        return replace(reading, cpu_us=(after - before) / reading.count * 1e6)

    def memories(self) -> list[Start]:
        """How each started, with the memory it has now."""
        return [
            replace(start, worked_mb=self.running[name].resident_mb())
            for name, start in self.starts.items()
        ]


def rounds(arena: Arena) -> list[Reading]:
    """Every contender once unmeasured, then in turns."""
    names = [DIRECT, *arena.running]
    found = []
    for turn in range(arena.options.rounds + 1):
        for work in WORKS:
            for name in names:
                reading = arena.read(name, work, turn)
                if turn:
                    found.append(reading)
    return found


def document(arena: Arena, found: list[Reading], starts: list[Start]) -> dict[str, object]:
    """All of a run."""
    return {
        **readings.about(),
        "absent": arena.absent,
        "starts": [asdict(start) for start in starts],
        "readings": [asdict(reading) for reading in found],
    }


def main() -> None:
    parser = readings.arguments(__doc__)
    parser.add_argument("--rounds", type=readings.positive, default=3)
    parser.add_argument(
        *("--seconds",),
        type=readings.above_zero,
        default=2.0,
        help="per contender and kind of work",
    )
    parser.add_argument(
        *("--peers-python", "-p"),
        default=sys.executable,
        help="the interpreter that has starlette, uvicorn and httpx, and litellm beside it",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[contender.name for contender in CONTENDERS],
        metavar="NAME",
        help="this contender; may be repeated",
    )
    options = parser.parse_args()
    with ExitStack() as stack:
        arena = Arena(options, stack)
        found = rounds(arena)
        starts = arena.memories()
    readings.say(options.json, table(found, starts, arena.absent))
    readings.write(options.json, document(arena, found, starts))


if __name__ == "__main__":
    main()
