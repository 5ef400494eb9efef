"""The daemon as a process of its own: started, asked, looked at from outside, and hurt."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.waiting import wait_until

TINY = "builtin:helexa/tiny"
START_S = 100.0
TIMEOUT_S = 50.0

Processes = frozenset[tuple[int, str]]
"""Process ids, each with when it started: an id may be used again."""


@dataclass(slots=True, eq=False)
class Daemon:
    """A running daemon; ``log`` is where its standard error goes."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str
    http: httpx.Client

    def is_ready(self) -> bool:
        """Whether the default models are loaded; fails if one cannot be."""
        activation = self.http.get("/health").json()["activation"]
        assert not activation["failed"], activation
        return bool(activation["state"] == "ready")

    def load(self, model: str = TINY) -> dict[str, Any]:
        """What `/health` says of a model, empty if it is not loaded."""
        loads = self.http.get("/health").json()["models"]
        return next((load for load in loads if load["id"] == model), {})

    def status(self, model: str = TINY) -> str:
        """What `/models` says of a model, empty if it is not listed."""
        listed = self.http.get("/models").json()
        return next((info["status"] for info in listed if info["id"] == model), "")

    def wait_for(self, status: str, model: str = TINY) -> None:
        wait_until(lambda: self.status(model) == status, TIMEOUT_S)

    def wait_for_load(self, **expected: int) -> None:
        """Return once the numbers of the model are these."""
        deadline = time.monotonic() + TIMEOUT_S
        while not expected.items() <= (load := self.load()).items():
            assert time.monotonic() < deadline, load
            time.sleep(0.002)

    def wait_until_idle(self) -> None:
        """Return once nobody runs or waits and all memory is free."""
        memory = self.load().get("kv_budget_mb", 0)
        self.wait_for_load(in_flight=0, queue_depth=0, anon_in_flight=0, kv_available_mb=memory)

    def child(self) -> int:
        """The process of the only model; its threads tell it from one that has nothing to do."""
        pids = children_of(self.process.pid)
        (child,) = [pid for pid in pids if threads_of(pid) > 1]
        return child

    def spare(self) -> int:
        """The child that waits for a model, once it does."""
        found: list[int] = []

        def waits() -> bool:
            pids = children_of(self.process.pid)
            found[:] = [pid for pid in pids if threads_of(pid) == 1 and is_listening(pid)]
            return bool(found)

        wait_until(waits, TIMEOUT_S)
        return found[0]

    def ask(self, **body: Any) -> dict[str, Any]:
        """Continue a text and return the whole answer."""
        answer = self.http.post("/v1/completions", json=request(**body))
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    def connect(self, **body: Any) -> socket.socket:
        """Send a request on a connection of its own and leave the answer unread."""
        parts = httpx.URL(self.url)
        data = json.dumps(request(**body)).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {parts.host}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        connection = socket.create_connection((parts.host, parts.port or 80), TIMEOUT_S)
        connection.sendall(head.encode() + data)
        return connection

    @contextmanager
    def stream(self, **body: Any) -> Iterator[Iterator[str]]:
        """A streamed answer that has begun; its frames, without what marks them."""
        asked = request(stream=True, **body)
        with self.http.stream("POST", "/v1/completions", json=asked) as answer:
            assert answer.status_code == 200, answer.read()
            frames = frames_of(answer)
            first = next(frames)
            yield iter_with(first, frames)

    def words(self) -> str:
        """All that it has logged."""
        return self.log.read_text("utf-8")


def request(**body: Any) -> dict[str, Any]:
    """A request for a text that ends only where it is told to."""
    return {"model": TINY, "prompt": "Once upon a time", "ignore_eos": True, **body}


def frames_of(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def iter_with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


SPARE = {"NEURON_WARM_SPARE": "1"}
PROGRAM = ("-m", "helexa", "neuron")


@contextmanager
def started(
    folder: Path,
    config: str,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Daemon]:
    """A daemon with its default models loaded; killed at the end if it still runs.

    No process is started ahead, unless ``environ`` says so. ``program`` is what Python runs.
    """
    path, log = folder / "neuron.toml", folder / "log"
    path.write_text(f'host = "127.0.0.1"\nport = 0\n{config}')
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *program, "-c", str(path)],
            stderr=stderr,
            env={**os.environ, "NEURON_WARM_SPARE": "0", **(environ or {})},
        )
    try:
        wait_until(
            lambda: "listening on " in log.read_text("utf-8") or process.poll() is not None,
            START_S,
        )
        found = re.search(r"listening on (http://\S+)", log.read_text("utf-8"))
        assert found is not None, log.read_text("utf-8")
        with httpx.Client(base_url=found[1], timeout=TIMEOUT_S) as http:
            daemon = Daemon(process, log, found[1], http)
            wait_until(daemon.is_ready, START_S)
            yield daemon
    finally:
        process.kill()
        process.wait(TIMEOUT_S)


# What the kernel says of processes.


def stat_of(pid: int) -> list[str]:
    """State, parent, …, start time (at 19), as in proc(5) from 3 on; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def state_of(pid: int) -> str:
    """One letter: R, S, T (stopped), Z (dead, and nobody has asked) …; empty if it is gone."""
    return "".join(stat_of(pid)[:1])


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def family_of(pid: int) -> Processes:
    """Everything that a process has started, and what that has."""
    children = children_of(pid)
    mine = {(child, stat_of(child)[19]) for child in children}
    return frozenset(mine).union(*(family_of(child) for child in children))


def alive(processes: Processes) -> list[int]:
    """Those that still run."""
    now = {pid: stat_of(pid) for pid, _ in processes}
    return [
        pid for pid, began in processes if now[pid] and now[pid][0] != "Z" and now[pid][19] == began
    ]


def threads_of(pid: int) -> int:
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    return 0


def is_listening(pid: int) -> bool:
    """Whether a process waits for something to be said to it."""
    with suppress(OSError):
        return "unix_stream" in Path(f"/proc/{pid}/wchan").read_text()
    return False


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still inside the block."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T")
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def best_s(call: Any, tries: int = 5) -> float:
    """The shortest time of some calls: the others waited for other work on the machine."""

    def once() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return min(once() for _ in range(tries))
