"""Whether budgets survive a gateway that is killed under load, again and again.

    python -m benchmarks.gateway_crash                           # 200 kills, some minutes
    python -m benchmarks.gateway_crash --kills 5 --json -

A gateway with a SQLite ledger serves chats and streams of a neuron that counts what it serves, by
request. It gets SIGKILL at a random moment, one time in eight while it is still starting; its file
is looked at; it is started again. Each start has a key of its own, and each request of it reserves
another amount, so that it is known of every single request whether its reservation is still held.
What must be so after each kill:

- the file is sound, and what it says is reserved is the sum of its reservations;
- what is held belongs to requests that were under way, or had ended moments before;
- what is spent is, to the token, what the neuron served of all others.

So spent and reserved together are never less than what was served, and more only by what requests
under way had not used of what they reserved. At the end the reservations expire.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import readings
from benchmarks.gateway_counting import BROKEN, PATH, Neuron
from benchmarks.gateway_mock import MODEL
from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.sqlite import SqliteBook
from helexa.gateway.proxy.estimate import need
from helexa.gateway.proxy.wires import CHAT

CLIENTS = 24
LONGEST_S = 0.5
"""How long a gateway serves at most until it is killed."""
START_S = 60.0
MOST_LATE_S = 1.0
"""How long a settlement may take at most: the ledger may lag behind the answer."""
AFTER_S = 10_000.0
MOST_SERVED = 60
LEAST_TOKENS, APART = 100_000, 100
"""Prompts of so short requests are estimated differently by a token or two."""


@dataclass(frozen=True, slots=True)
class Kill:
    """What was found after one kill; tokens, unless it says otherwise.

    ``held`` requests have a reservation still; ``late`` ones of them were answered whole,
    ``late_ms`` before the kill at most. ``unused``: what held reservations have above what was
    served for them.
    """

    requests: int
    served: int
    spent: int
    reserved: int
    held: int
    under_way: int
    late: int
    late_ms: float
    unused: int
    lost: int


@dataclass(slots=True)
class Run:
    """All kills, and the ledger when all reservations have expired."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    swept: dict[str, int] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """What is kept of it."""
        return {"seed": self.seed, **self.summary(), "after_expiry": self.swept}

    def summary(self) -> dict[str, float]:
        """Sums over all kills."""
        names = "requests served spent reserved held under_way late unused lost".split()
        found: dict[str, float] = {
            name: sum(getattr(kill, name) for kill in self.kills) for name in names
        }
        return {"kills": len(self.kills), **found, "late_ms": max(k.late_ms for k in self.kills)}


class Inconsistent(Exception):
    """The ledger does not say what it must."""


@dataclass(slots=True)
class Asked:
    """One request; ``done_at`` is when its whole answer was there."""

    id: str
    reserves: int
    done_at: float | None = None


class Clients:
    """All that ask one gateway with one key; ``asked`` is every request that went out.

    Each reserves another amount, as each allows itself another number of tokens.
    """

    def __init__(self, port: int, key: str, name: str, seed: int) -> None:
        self.asked: list[Asked] = []
        self.answered = asyncio.Event()
        self.over = False
        self._port = port
        self._key = key
        self._name = name
        self._dice = random.Random(seed)

    async def ask(self) -> None:
        """Ask again and again, until it is over."""
        while not self.over:
            writer = None
            with suppress(*BROKEN):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    while not self.over:
                        await self._one(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        n, size = len(self.asked), self._dice.randrange(1, MOST_SERVED)
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": LEAST_TOKENS + APART * n,
            "stream": self._dice.random() < 0.5,
            "size": size,
        }
        data = json.dumps(body).encode()
        asked = Asked(f"{self._name}-{n}", need(data, body, CHAT.limits, None).total)
        self.asked.append(asked)
        lines = (
            *(f"POST {PATH} HTTP/1.1", "host: x", f"authorization: Bearer {self._key}"),
            *("content-type: application/json", f"x-request-id: {asked.id}"),
            *(f"content-length: {len(data)}", "", ""),
        )
        writer.write("\r\n".join(lines).encode() + data)
        if await self._whole(reader):
            asked.done_at = time.monotonic()
            self.answered.set()
        else:
            await asyncio.sleep(0.01)

    async def _whole(self, reader: asyncio.StreamReader) -> bool:
        """Read an answer; whether it is one of the neuron."""
        head = await reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        return head.startswith(b"HTTP/1.1 200 ")


def require(holds: bool, what: str, *values: object) -> None:
    """Raises Inconsistent unless it holds."""
    if not holds:
        raise Inconsistent(f"{what}: {values}")


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def configure(folder: Path, neuron: str, port: int, keys: int) -> Path:
    """A configuration with a key for every start."""
    path = folder / "gateway.toml"
    lines = [
        f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = ""\n',
        f'[[neurons]]\nname = "a"\nendpoint = "{neuron}"\n',
        f'[entitlements]\nledger = "sqlite://{folder / "ledger.db"}"\n',
        *(
            f'[[entitlements.keys]]\nkey = "sk-{n}"\naccount_id = "a"\nkey_id = "key-{n}"\n'
            for n in range(keys)
        ),
    ]
    path.write_text("".join(lines))
    return path


def start(config: Path) -> subprocess.Popen[bytes]:
    """A gateway in a process of its own."""
    command = [sys.executable, "-m", "helexa", "gateway", "-c", str(config), "--models", ""]
    environ = {**os.environ, "HELEXA_LOG": "warning"}
    with (config.parent / "gateway.log").open("ab") as log:
        return subprocess.Popen(command, stderr=log, env=environ)


async def one_kill(
    config: Path, port: int, neuron: Neuron, n: int, dice: random.Random
) -> tuple[Clients, float]:
    """Start a gateway, load it, kill it; who asked, and when it was killed."""
    process = start(config)
    clients = Clients(port, f"sk-{n}", f"{n}", dice.randrange(2**32))
    try:
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(clients.ask(), name="asks") for _ in range(CLIENTS)]
            if dice.random() < 1 / 8:
                await asyncio.sleep(dice.random() * 2)
            else:
                await asyncio.wait_for(clients.answered.wait(), START_S)
                await asyncio.sleep(dice.random() * LONGEST_S)
            require(process.poll() is None, "the gateway ended by itself", process.returncode)
            process.kill()
            killed_at = time.monotonic()
            clients.over = True
            for task in asking:
                task.cancel()
    finally:
        process.kill()
        process.wait()
    await asyncio.wait_for(neuron.idle(), START_S)
    return clients, killed_at


def look(path: Path, key: str) -> tuple[int, int, list[int]]:
    """Spent, reserved, and the amounts of the reservations of a key. Raises Inconsistent."""
    if not path.exists():
        return 0, 0, []
    with closing(sqlite3.connect(path)) as book:
        (sound,) = book.execute("PRAGMA integrity_check").fetchone()
        require(sound == "ok", "the file is damaged", sound)
        found = book.execute("SELECT name FROM sqlite_master WHERE name = 'helexa_reservations'")
        if found.fetchone() is None:
            return 0, 0, []
        query = "SELECT spent, reserved FROM helexa_ledger WHERE key_id = ?"
        spent, reserved = book.execute(query, (key,)).fetchone() or (0, 0)
        query = "SELECT amount FROM helexa_reservations WHERE key_id = ?"
        amounts = [amount for (amount,) in book.execute(query, (key,))]
    require(sum(amounts) == reserved, "reserved is not the sum of reservations", amounts, reserved)
    return spent, reserved, amounts


def audit(path: Path, n: int, clients: Clients, neuron: Neuron, killed_at: float) -> Kill:
    """Compare the ledger with what the neuron served, request by request. Raises Inconsistent."""
    spent, reserved, amounts = look(path, f"key-{n}")
    by_amount = {asked.reserves: asked for asked in clients.asked}
    require(len(by_amount) == len(clients.asked), "two requests reserve the same")
    held: list[Asked] = []
    for amount in amounts:
        require(amount in by_amount, "nobody asked for this reservation", amount)
        held.append(by_amount[amount])
    served = {asked.id: neuron.served.get(asked.id, 0) for asked in clients.asked}
    for_held = sum(served[asked.id] for asked in held)
    total = sum(served.values())
    require(spent == total - for_held, "spent is not what was served", spent, total, for_held)
    lates = [killed_at - asked.done_at for asked in held if asked.done_at is not None]
    require(all(late < MOST_LATE_S for late in lates), "a settlement took too long", lates)
    under_way = sum(asked.done_at is None for asked in clients.asked)
    require(len(held) <= under_way + len(lates), "more is held than was under way")
    require(spent + reserved >= total, "the ledger counts less than was served", spent, reserved)
    return Kill(
        requests=len(clients.asked),
        served=total,
        spent=spent,
        reserved=reserved,
        held=len(held),
        under_way=under_way,
        late=len(lates),
        late_ms=round(1000 * max(lates, default=0.0), 1),
        unused=reserved - for_held,
        lost=for_held,
    )


async def sweep(path: Path) -> dict[str, int]:
    """Let all reservations expire; the sums that are left in the ledger."""
    ledger = Ledger(lambda: SqliteBook(path), clock=lambda: time.time() + AFTER_S)
    await ledger.start()
    freed = await ledger.tidy()
    await ledger.aclose()
    with closing(sqlite3.connect(path)) as book:
        (left,) = book.execute("SELECT count(*) FROM helexa_reservations").fetchone()
        sums = book.execute("SELECT sum(spent), sum(reserved) FROM helexa_ledger").fetchone()
    return {"freed": freed, "left": left, "spent": sums[0], "reserved": sums[1]}


async def crash(kills: int, seed: int, folder: Path) -> Run:
    """Kill so many gateways. Raises Inconsistent as soon as the ledger is not right."""
    dice = random.Random(seed)
    run = Run(seed)
    port, path = free_port(), folder / "ledger.db"
    async with Neuron.running() as neuron:
        config = configure(folder, neuron.url, port, kills)
        for n in range(kills):
            clients, killed_at = await one_kill(config, port, neuron, n, dice)
            run.kills.append(audit(path, n, clients, neuron, killed_at))
    run.swept = await sweep(path)
    sums = run.summary()
    require(run.swept["spent"] == sums["spent"], "expiry changed what was spent", run.swept)
    require(run.swept["reserved"] == run.swept["left"] == 0, "something is left", run.swept)
    require(run.swept["freed"] == sums["held"], "not all has expired", run.swept)
    return run


def main() -> None:
    """Read the options, kill, print the sums."""
    parser = readings.arguments(__doc__)
    parser.add_argument("--kills", type=readings.positive, default=200)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = asyncio.run(crash(options.kills, options.seed, Path(folder)))
    for name, value in run.summary().items():
        print(f"{name:12}{value:>12}", file=sys.stderr)
    readings.write(options.json, {**readings.about(), **run.told()})


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
