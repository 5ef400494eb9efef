"""What metering costs the gateway: a reservation and its settlement, by store and concurrency.

    python -m benchmarks.ledger [memory] [sqlite] [postgresql://…]

Each of so many tasks reserves, does ``--work`` microseconds of something else on the event loop
with system calls in it, as a relay does, and settles. Printed are medians over the rounds: such
requests per second, processor time of each above that of the same work without a ledger, and how
long `reserve` took. One core is used. `--json` writes every round.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel

from benchmarks.readings import arguments, not_negative, positive, publish
from helexa.gateway.entitlements.book import Book
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.memory import MemoryBook
from helexa.gateway.entitlements.provider import Principal
from helexa.gateway.entitlements.sqlite import SqliteBook

CONCURRENCY = (1, 16, 64)
KEYS = 8


class Work:
    """Something else to do: Python code, and bytes through a socket."""

    def __init__(self, microseconds: float) -> None:
        self._ends = socket.socketpair()
        self._turns = 0
        while microseconds:
            begin = time.perf_counter()
            for _ in range(100):
                self()
            if (time.perf_counter() - begin) * 1e4 >= microseconds:
                break
            self._turns += 50

    def __call__(self) -> None:
        for turn in range(self._turns):
            turn * turn
        if self._turns:
            self._ends[0].send(b"x" * 200)
            self._ends[1].recv(300)

    def close(self) -> None:
        """The socket's two ends."""
        for end in self._ends:
            end.close()


async def measure(ledger: Ledger | None, tasks: int, pairs: int, work: Work) -> list[float]:
    """Wall and processor seconds per pair, then how long each reservation took."""
    left, took = pairs, list[float]()

    async def go_on(number: int) -> None:
        nonlocal left
        who = Principal("acct", f"key-{number % KEYS}")
        while left > 0:
            left -= 1
            work()
            if ledger is not None:
                begin = time.perf_counter()
                held = await ledger.reserve(who, Budget(10**15), 100)
                took.append(time.perf_counter() - begin)
            work()
            await anyio.lowlevel.checkpoint()
            if ledger is not None:
                ledger.settle(held, 50)

    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(go_on, number)
    if ledger is not None:
        await ledger.flush()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return [wall / pairs, processor / pairs, *sorted(took)]


@dataclass(frozen=True, slots=True)
class Metering:
    """Medians over the rounds, in which a store met so many tasks at once.

    Of each of ``rounds``: requests per second, microseconds of processor time for metering each,
    and the median of the microseconds that a reservation took.
    """

    store: str
    tasks: int
    per_second: float
    metering_us: float
    reserve_us: float
    rounds: list[tuple[float, float, float]]


async def compare(
    name: str, open_book: Callable[[], Book], args: argparse.Namespace
) -> list[Metering]:
    """A row for each number of tasks."""
    ledger = Ledger(open_book)
    await ledger.start()
    work = Work(args.work / 2)
    found = []
    for tasks in CONCURRENCY:
        rounds: list[tuple[float, float, float]] = []
        for _ in range(args.rounds):
            _, without, *_ = await measure(None, tasks, args.pairs, work)
            wall, processor, *took = await measure(ledger, tasks, args.pairs, work)
            rounds.append((1 / wall, (processor - without) * 1e6, took[len(took) // 2] * 1e6))
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        found.append(Metering(name, tasks, *medians, rounds))
    work.close()
    await ledger.aclose()
    return found


def opened(store: str, folder: Path) -> tuple[str, Callable[[], Book]]:
    """A store's name, and what opens it."""
    if store == "memory":
        return "memory", MemoryBook
    if store == "sqlite":
        return "SQLite", lambda: SqliteBook(folder / "ledger.db")
    from helexa.gateway.entitlements.postgres import PostgresBook

    return "PostgreSQL", lambda: PostgresBook(store)


def store(given: str) -> str:
    """A type of arguments: `memory`, `sqlite` or where a database is."""
    if given in ("memory", "sqlite") or given.startswith(("postgres://", "postgresql://")):
        return given
    raise argparse.ArgumentTypeError(f"{given!r} is not memory, sqlite or postgresql://…")


def main() -> None:
    """Print a line for each store and number of tasks."""
    parser = arguments(__doc__)
    parser.add_argument("stores", type=store, nargs="*", default=["memory", "sqlite"])
    parser.add_argument(
        "--work", type=not_negative, default=200.0, help="µs per pair beside the ledger"
    )
    parser.add_argument("--pairs", type=positive, default=4000)
    parser.add_argument("--rounds", type=positive, default=5)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    rows: list[Metering] = []
    with tempfile.TemporaryDirectory() as folder:
        for given in args.stores:
            rows += anyio.run(compare, *opened(given, Path(folder)), args)
    publish(
        args.json,
        {name: getattr(args, name) for name in ("work", "pairs", "rounds")},
        rows,
        {
            "store": lambda o: o.store,
            "tasks": lambda o: f"{o.tasks}",
            "requests per second": lambda o: f"{o.per_second:.0f}",
            "µs of processor for metering": lambda o: f"{o.metering_us:.0f}",
            "`reserve` takes, µs": lambda o: f"{o.reserve_us:.0f}",
        },
    )


if __name__ == "__main__":
    main()
