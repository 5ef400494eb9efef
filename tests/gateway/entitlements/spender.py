"""A gateway's ledger in a process of its own, which spends as it is told, or until it is killed.

    python -m tests.gateway.entitlements.spender STORE CAP WHAT

STORE is a path or a URL. WHAT: `grab` waits for a line and then reserves 20 times 100 at once;
`hold` reserves 1 again and again and tells each; `churn` reserves, settles and releases for ever.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import helexa
from helexa.gateway.entitlements.book import Book
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.ledger import Ledger, Timing
from helexa.gateway.entitlements.postgres import PostgresBook
from helexa.gateway.entitlements.provider import Principal
from helexa.gateway.entitlements.sqlite import SqliteBook
from helexa.refusals import InsufficientQuota

ANN = Principal("acct", "key")
CROWD = 20


def opener(store: str) -> Callable[[], Book]:
    if store.startswith("postgresql:"):
        return lambda: PostgresBook(store)
    return lambda: SqliteBook(Path(store))


@contextmanager
def spending(
    store: str, cap: int, what: str, processes: int = 1
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Such processes, whose ledgers are open; killed at the end of the block."""
    root = Path(__file__).parents[3]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, store, str(cap), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env={"PYTHONPATH": f"{Path(helexa.__file__).parents[1]}:{root}"},
        )
        for _ in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
        yield started
    finally:
        for process in started:
            process.kill()
            with process:  # closes its pipes and waits for it
                pass


async def grab(ledger: Ledger, budget: Budget) -> None:
    await anyio.to_thread.run_sync(sys.stdin.readline)
    granted = 0

    async def try_it() -> None:
        nonlocal granted
        try:
            await ledger.reserve(ANN, budget, 100)
        except InsufficientQuota:
            return
        granted += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(CROWD):
            tasks.start_soon(try_it)
    say(str(granted))


async def hold(ledger: Ledger, budget: Budget) -> None:
    async def again_and_again() -> None:
        while True:
            say((await ledger.reserve(ANN, budget, 1)).id)

    async with anyio.create_task_group() as tasks:
        for _ in range(CROWD):
            tasks.start_soon(again_and_again)


async def churn(ledger: Ledger, budget: Budget) -> None:
    async def again_and_again(number: int) -> None:
        dice = random.Random(number)
        while True:
            try:
                held = await ledger.reserve(ANN, budget, dice.randrange(50))
            except InsufficientQuota:
                say("full")
                await anyio.sleep(0.001)
                continue
            await anyio.sleep(dice.random() / 200)
            if dice.random() < 0.5:
                ledger.release(held)
            else:
                ledger.settle(held, dice.randrange(3))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.keep)
        for number in range(CROWD):
            tasks.start_soon(again_and_again, number)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # it is a program's


async def main(store: str, cap: str, what: str) -> None:
    ledger = Ledger(opener(store), timing=Timing(tick_s=0.05))
    await ledger.start()
    say("open")
    acts: dict[str, Any] = {"grab": grab, "hold": hold, "churn": churn}
    await acts[what](ledger, Budget(int(cap)))
    await ledger.flush()
    await ledger.aclose()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
