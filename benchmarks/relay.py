"""How many requests and streams per second a relay passes on, and what each costs it.

    python -m benchmarks.relay                    # a minute
    python -m benchmarks.relay --seconds 1 --json -

Three processes: a mock upstream that answers from memory, the relay under measurement, and this
one, which asks. Relays take turns with asking the mock directly, which shows what the mock and the
asking themselves can do. The relay's CPU time per request is reported beside the rate: it is what
stays comparable on a machine that is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.relay_load import CHUNKS, Load, run_load
from benchmarks.relay_mock import serve_mock

JSON_CONNECTIONS = 16
STREAM_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """One relay, one kind of work, one round."""

    relay: str
    work: str
    connections: int
    per_second: float
    median_ms: float
    cpu_us: float | None  # of the relay per request; None for the mock itself


WORKS = {
    "json": Load("/v1/json", JSON_CONNECTIONS),
    "json, 1 connection": Load("/v1/json", 1),
    "stream": Load("/v1/stream", STREAM_CONNECTIONS),
    "stream, 1 ms apart": Load("/v1/slow", STREAM_CONNECTIONS),
}


def run_helexa(upstream: str) -> None:
    """The relay of helexa.http: server, router, client, nothing else."""
    import anyio

    from helexa.http import Client, Request, Response, Router, Server, json_response, relay

    async def pass_on(request: Request) -> Response:
        return await relay(request, client, upstream + request.path)

    async def cpu(_: Request) -> Response:
        return json_response(time.process_time())

    async def main() -> None:
        nonlocal client
        async with Client() as client, anyio.create_task_group() as tasks:
            await tasks.start(server.serve)
            print(server.url, flush=True)

    router = Router()
    for path in ("/v1/json", "/v1/stream", "/v1/slow"):
        router.add("POST", path, pass_on)
    router.add("GET", "/cpu", cpu)
    server = Server(router)
    client = Client()
    anyio.run(main)


# Name → what runs a relay for an upstream in a process of its own: it prints its URL first, and
# answers GET /cpu with its CPU time in seconds. Peers go here.
RELAYS: dict[str, Callable[[str], None]] = {"helexa": run_helexa}


@contextmanager
def started(role: str, upstream: str = "") -> Iterator[str]:
    """A process of this module; its URL."""
    command = [sys.executable, "-m", "benchmarks.relay", "--role", role, "--upstream", upstream]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def measure(name: str, url: str, work: str, seconds: float) -> Reading:
    load = WORKS[work]
    result = asyncio.run(run_load(url, load, seconds, cpu=name != "direct"))
    return Reading(
        relay=name,
        work=work,
        connections=load.connections,
        per_second=result.count / result.elapsed_s,
        median_ms=statistics.median(result.latencies_s) * 1e3,
        cpu_us=None if result.cpu_s is None else result.cpu_s / result.count * 1e6,
    )


def run(rounds: int, seconds: float) -> list[Reading]:
    with ExitStack() as stack:
        mock = stack.enter_context(started("mock"))
        urls = {"direct": mock}
        for name in RELAYS:
            urls[name] = stack.enter_context(started(name, mock))
        for work in WORKS:  # once unmeasured
            for name, url in urls.items():
                measure(name, url, work, 1.0)
        return [
            measure(name, url, work, seconds)
            for _ in range(rounds)
            for work in WORKS
            for name, url in urls.items()
        ]


def table(readings: list[Reading]) -> str:
    """Medians over the rounds."""
    lines = [f"{'work':20} {'relay':8} {'per second':>11} {'median ms':>10} {'CPU µs each':>12}"]
    for work in WORKS:
        for name in ("direct", *RELAYS):
            rows = [item for item in readings if (item.work, item.relay) == (work, name)]
            rate = statistics.median(row.per_second for row in rows)
            latency = statistics.median(row.median_ms for row in rows)
            costs = [row.cpu_us for row in rows if row.cpu_us is not None]
            cost = f"{statistics.median(costs):12.0f}" if costs else f"{'':>12}"
            lines.append(f"{work:20} {name:8} {rate:11.0f} {latency:10.2f} {cost}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="per relay and kind of work")
    parser.add_argument("--json", metavar="PATH", help="write all readings there; - for stdout")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--upstream", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        serve_mock() if options.role == "mock" else RELAYS[options.role](options.upstream)
        return
    readings = run(options.rounds, options.seconds)
    if options.json != "-":
        print(table(readings), f"\n\na stream has {CHUNKS} chunks; medians of {options.rounds}")
    if options.json:
        text = json.dumps([asdict(reading) for reading in readings], indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
