"""What is left in a gateway of ten thousand requests whose clients leave whenever they like.

    python -m benchmarks.gateway_soak                            # a minute
    python -m benchmarks.gateway_soak --requests 1000 --json -

A gateway with keys and a SQLite ledger is a process of its own; the neuron and the clients are in
this one. Clients leave before their request is whole, while they wait for an answer, in the middle
of one, by closing or by a reset; the neuron breaks off, goes silent, does not answer at all. At the
end nobody may be left: no connection, no open file, no reservation; what the ledger says is spent
is what the metrics counted, at least what clients got whole, at most what the neuron served. Every
request that the neuron saw has one line in the log.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import readings
from benchmarks.gateway_counting import BROKEN, PATH, Neuron
from benchmarks.gateway_mock import MODEL

AT_ONCE = 64
KEYS = 3
PATIENCE_S = 60.0
WARM = 300
MOODS = ("", "", "", "", "break", "stall", "silent")
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Left:
    """How it was before and after; tokens, MiB, and counts."""

    requests: int
    seconds: float
    whole: int
    seen_by_neuron: int
    lines: int
    lines_missing: int
    files_before: int
    files_after: int
    memory_before_mb: float
    memory_after_mb: float
    clients_got: int
    spent: int
    counted_by_metrics: int
    served_by_neuron: int
    reserved: int
    reservations: int

    @property
    def clean(self) -> bool:
        """Whether nothing is left, and all that was spent is accounted for."""
        return (
            self.files_after <= self.files_before
            and self.reserved == self.reservations == self.lines_missing == 0
            and self.clients_got <= self.spent <= self.served_by_neuron
            and self.spent == self.counted_by_metrics
        )


class Gateway:
    """A gateway in a process of its own, and what can be seen of it from outside."""

    def __init__(self, folder: Path, neuron: str) -> None:
        self.folder = folder
        self._log = folder / "gateway.log"
        config = folder / "gateway.toml"
        lines = [
            '[gateway]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\n',
            f'[[neurons]]\nname = "a"\nendpoint = "{neuron}"\n',
            f'[entitlements]\nledger = "sqlite://{folder / "ledger.db"}"\n',
            *(
                f'[[entitlements.keys]]\nkey = "sk-{n}"\naccount_id = "a"\nkey_id = "key-{n}"\n'
                for n in range(KEYS)
            ),
        ]
        config.write_text("".join(lines))
        command = [sys.executable, "-m", "helexa", "gateway", "-c", str(config), "--models", ""]
        environ = os.environ | {"HELEXA_LOG": "info", "HELEXA_LOG_FORMAT": "text"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environ)
        self.url, self._metrics_url = self._urls()

    def _urls(self) -> tuple[str, str]:
        form = re.compile(r"listen=http://(\S+) metrics_listen=(\S+)")
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if found := form.search(self._log.read_text()):
                return found[1], found[2]
            time.sleep(0.02)
        raise SystemExit(self._log.read_text())

    @property
    def files(self) -> int:
        """How many files and connections it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def memory_mb(self) -> float:
        """How much memory is resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)

    def counted(self) -> int:
        """The tokens that its metrics say were spent."""
        with urllib.request.urlopen(self._metrics_url, timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        return sum(map(int, re.findall(r"(?m)^cortex_spend_tokens_total\{.*\} (\d+)$", text)))

    def ledger(self) -> tuple[int, int, int]:
        """Spent, reserved, and how many reservations there are."""
        with closing(sqlite3.connect(self.folder / "ledger.db")) as book:
            sums = "SELECT coalesce(sum(spent), 0), coalesce(sum(reserved), 0) FROM helexa_ledger"
            spent, reserved = book.execute(sums).fetchone()
            (held,) = book.execute("SELECT count(*) FROM helexa_reservations").fetchone()
        return spent, reserved, held

    def lines(self) -> list[str]:
        """The ids of the requests that the log tells of."""
        return re.findall(r" request request_id=(\S+)", self._log.read_text())


class Crowd:
    """Clients that leave; ``got`` counts the tokens of whole answers that a key pays for."""

    def __init__(self, address: str, dice: random.Random) -> None:
        self.got = 0
        self.whole = 0
        host, port = address.split(":")
        self._address = host, int(port)
        self._dice = dice
        self._left = 0
        self._number = 0

    async def ask(self, requests: int) -> None:
        """So many requests, some at a time."""
        self._left = requests
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work(), name="asks")

    async def _work(self) -> None:
        while self._left > 0:
            self._left -= 1
            with suppress(*BROKEN, TimeoutError):
                reader, writer = await asyncio.open_connection(*self._address)
                try:
                    await self._one(reader, writer)
                finally:
                    if self._dice.random() < 0.5:
                        raw = writer.get_extra_info("socket")
                        with suppress(OSError):
                            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dice = self._dice
        mood, size, paid = dice.choice(MOODS), dice.randrange(1, 40), dice.random() < 0.9
        stream = mood in ("break", "stall") or dice.random() < 0.5
        wire = self._request(mood, size, stream=stream, paid=paid)
        if dice.random() < 0.1:  # half of it, or nothing
            writer.write(wire[: dice.randrange(len(wire))])
            await asyncio.sleep(dice.choice([0, 0.001, 0.01]))
            return
        writer.write(wire)
        if mood == "silent" or dice.random() < 0.2:
            await asyncio.sleep(dice.choice([0, 0.001, 0.01]))
            return
        async with asyncio.timeout(0.05 if mood == "stall" else PATIENCE_S):
            if dice.random() < 0.3:
                await reader.read(dice.randrange(1, 3000))
                return
            await self._read(reader)
        self.whole += 1
        self.got += size if paid else 0

    def _request(self, mood: str, size: int, *, stream: bool, paid: bool) -> bytes:
        self._number += 1
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "x" * self._dice.choice([2, 2, 20_000])}],
            **{"max_tokens": 1000, "stream": stream, "size": size, "mood": mood},
        }
        data = json.dumps(body).encode()
        lines = (
            *(f"POST {PATH} HTTP/1.1", "host: x", "content-type: application/json"),
            *([f"authorization: Bearer sk-{self._number % KEYS}"] if paid else []),
            *(f"x-request-id: r-{self._number}", f"content-length: {len(data)}", "", ""),
        )
        return "\r\n".join(lines).encode() + data

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError("refused")


async def rest(gateway: Gateway, files: int) -> int:
    """Wait until no more files are open than that, nor reservations; how many files are."""
    end = time.monotonic() + PATIENCE_S
    # Another process closes them, and has no event for that.
    while time.monotonic() < end and (gateway.files > files or gateway.ledger()[2]):  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.1)
    return gateway.files


async def soak(requests: int, seed: int, folder: Path) -> Left:
    """Ask so many times, then look at what is left."""
    async with Neuron.running() as neuron:
        gateway = Gateway(folder, neuron.url)
        try:
            crowd = Crowd(gateway.url, random.Random(seed))
            await asyncio.sleep(0.5)
            idle = gateway.files
            await crowd.ask(WARM)  # what is loaded or opened once, and for good
            files, memory_mb = await rest(gateway, idle), gateway.memory_mb
            began = time.monotonic()
            await crowd.ask(requests)
            seconds = time.monotonic() - began
            await asyncio.wait_for(neuron.idle(), PATIENCE_S)
            files_after = await rest(gateway, files)
            lines, (spent, reserved, held) = gateway.lines(), gateway.ledger()
            return Left(
                requests=requests,
                **{"seconds": round(seconds, 1), "whole": crowd.whole},
                **{"seen_by_neuron": len(neuron.served), "lines": len(lines)},
                lines_missing=len(set(neuron.served) - set(lines)) + len(lines) - len(set(lines)),
                **{"files_before": files, "files_after": files_after},
                **{"memory_before_mb": memory_mb, "memory_after_mb": gateway.memory_mb},
                **{"clients_got": crowd.got, "spent": spent},
                counted_by_metrics=gateway.counted(),
                served_by_neuron=sum(neuron.served.values()),
                **{"reserved": reserved, "reservations": held},
            )
        finally:
            gateway.process.kill()
            gateway.process.wait()


def main() -> None:
    """Read the options, ask, print what is left; exit status 1 if something is."""
    parser = readings.arguments(__doc__)
    parser.add_argument("--requests", type=readings.positive, default=10_000)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        left = asyncio.run(soak(options.requests, options.seed, Path(folder)))
    for name, value in asdict(left).items():
        print(f"{name:20}{value!s:>14}", file=sys.stderr)
    head = {**readings.about(), "seed": options.seed}
    readings.write(options.json, {**head, "clean": left.clean, **asdict(left)})
    sys.exit(0 if left.clean else 1)


if __name__ == "__main__":
    main()
