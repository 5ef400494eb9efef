"""What a daemon does under more load than it can carry: errors, accounts, memory, descriptors.

    python -m benchmarks.neuron_load                      # a minute, 64 clients
    python -m benchmarks.neuron_load --seconds 10 --json -

A `helexa neuron` with the built-in model in a process of its own, and clients that ask without a
pause: prompts and answers of random length, some with principal headers, slow readers, and clients
that leave while they wait or while they are served. The daemon has 8 seats and 40 places to wait,
so that some are refused, and so little KV cache that all of it is soon in use: what still grows
then is a leak. Exit status 1 if memory is not flat, the accounts differ, or somebody still waits;
in a run of a few seconds the cache is still being filled, which looks like a leak.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import readings
from benchmarks.neuron_clients import MODEL, Tally, ask_for

CONFIG = f"""
host = "127.0.0.1"
port = 0
default_models = [{{model_id = "{MODEL}", kv_mb = 16}}]
[engine.prefix_cache]
budget_mb = 4
[engine.admission]
max_in_flight = 8
max_queue_depth = 40
max_wait_secs = 10
max_per_principal = 10
"""
REFUSALS = (
    *("rejected_queue_full", "rejected_timeout", "rejected_per_principal"),
    *("rejected_anon_yield", "rejected_kv_timeout", "rejected_kv_unservable"),
)
EVERY_S = 0.5
WARM_UP = 0.25
FLAT_PERCENT = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon and the model's process at one moment; memory is what is resident."""

    at_s: float
    daemon_mib: float
    child_mib: float
    daemon_files: int
    child_files: int
    in_flight: int
    queue_depth: int


def health(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def load_of(url: str) -> dict[str, Any]:
    """What the daemon says of its only model."""
    models = health(url)["models"]
    return dict(models[0]) if models else {}


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def model_process(pid: int) -> int:
    """The child that has a model: the other, which waits for one, has fewer threads."""
    return max(children_of(pid), key=lambda child: len(os.listdir(f"/proc/{child}/task")))


@contextmanager
def started() -> Iterator[tuple[int, str]]:
    """A daemon with its model loaded; its process id and URL."""
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder) / "neuron.toml", Path(folder) / "log"
        config.write_text(CONFIG, encoding="utf-8")
        command = [sys.executable, "-m", "helexa", "neuron", "-c", str(config)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr)
        try:
            url = ""
            while not url or not load_of(url):
                if process.poll() is not None:
                    raise SystemExit(f"the daemon ended:\n{log.read_text()}")
                found = re.search(r"listening on (http://\S+)", log.read_text())
                url = found[1] if found else ""
                time.sleep(0.1)
            yield process.pid, url
        finally:
            process.terminate()
            process.wait(130)


class Watch:
    """Samples a daemon from a thread of its own while the clients ask."""

    def __init__(self, pid: int, url: str) -> None:
        self.samples: list[Sample] = []
        self._pid, self._child, self._url = pid, model_process(pid), url
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.samples.append(self.sample())

    def sample(self) -> Sample:
        load = load_of(self._url)
        return Sample(
            at_s=round(time.monotonic() - self._began, 2),
            daemon_mib=round(resident_mib(self._pid), 2),
            child_mib=round(resident_mib(self._child), 2),
            daemon_files=files_of(self._pid),
            child_files=files_of(self._child),
            in_flight=load.get("in_flight", -1),
            queue_depth=load.get("queue_depth", -1),
        )

    def until_idle(self, patience_s: float = 30.0) -> float | None:
        """Seconds until nobody runs or waits any more; None if that does not come."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < patience_s:
            load = load_of(self._url)
            if (load["in_flight"], load["queue_depth"]) == (0, 0):
                return passed
            time.sleep(0.02)
        return None


def growth_percent(samples: list[Sample], name: str) -> float:
    """How much a number grew from the first quarter after the warm-up to the last."""
    warm = samples[int(len(samples) * WARM_UP) :]
    quarter = max(1, len(warm) // 4)
    first = statistics.median(getattr(sample, name) for sample in warm[:quarter])
    last = statistics.median(getattr(sample, name) for sample in warm[-quarter:])
    return float((last / first - 1) * 100)


def accounts(tally: Tally, load: dict[str, Any]) -> dict[str, Any]:
    """Whether the daemon's counters and the clients' agree."""
    seen = sum(tally.refused.values())
    counted = sum(load[name] for name in REFUSALS)
    ended = tally.served + tally.left_running + tally.left_early + seen
    return {
        "refusals_seen": seen,
        "refusals_counted": counted,
        **{name: load[name] for name in REFUSALS},
        # who left before there was an answer may have been refused without seeing it
        "refusals_agree": seen <= counted <= seen + tally.left_early,
        "requests_agree": tally.sent == ended + sum(tally.errors.values()),
    }


def measure(clients: int, seconds: float, seed: int) -> dict[str, Any]:
    with started() as (pid, url):
        watch = Watch(pid, url)
        before, began = watch.sample(), time.monotonic()
        with watch:
            tally = asyncio.run(ask_for(url, clients, seconds, seed))
        elapsed_s = time.monotonic() - began
        idle_s = watch.until_idle()
        time.sleep(2 * EVERY_S)  # for the last connections to be closed
        after, load = watch.sample(), load_of(url)
    first = sorted(tally.first_frame_s) or [0.0]
    return {
        **readings.about(),
        "clients": clients,
        "seconds": seconds,
        "elapsed_s": round(elapsed_s, 2),
        "load_1m": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "requests": tally.sent,
        "served": tally.served,
        "left_running": tally.left_running,
        "left_early": tally.left_early,
        "refused": dict(tally.refused),
        "errors": dict(tally.errors),
        "tokens_per_s": round(tally.tokens / elapsed_s, 1),
        "head_median_s": round(statistics.median(first), 3),
        "head_p95_s": round(first[int(len(first) * 0.95)], 3),
        "idle_after_s": idle_s if idle_s is None else round(idle_s, 3),
        "accounts": accounts(tally, load),
        "daemon_growth_percent": round(growth_percent(watch.samples, "daemon_mib"), 2),
        "child_growth_percent": round(growth_percent(watch.samples, "child_mib"), 2),
        "before": asdict(before),
        "after": asdict(after),
        "samples": [asdict(sample) for sample in watch.samples],
    }


def complaints(found: dict[str, Any]) -> list[str]:
    """What a daemon that carries its load does not do."""
    books = found["accounts"]
    growth = {who: found[f"{who}_growth_percent"] for who in ("daemon", "child")}
    return [
        *(f"the {who} grew by {g} %" for who, g in growth.items() if g > FLAT_PERCENT),
        *(f"{name} is false" for name in ("refusals_agree", "requests_agree") if not books[name]),
        *(["somebody still runs or waits"] if found["idle_after_s"] is None else []),
    ]


def table(found: dict[str, Any]) -> str:
    """What a person wants to know of it."""
    before, after, books = found["before"], found["after"], found["accounts"]
    refused = ", ".join(f"{count} × {what}" for what, count in found["refused"].items())
    errors = ", ".join(f"{count} × {what}" for what, count in found["errors"].items())
    idle_s = found["idle_after_s"]
    rows = {
        "requests": str(found["requests"]),
        "served whole": f"{found['served']}, {found['tokens_per_s']} tokens/s",
        "left": f"{found['left_running']} while served, {found['left_early']} before",
        "refused": refused or "none",
        "errors": errors or "none",
        "until an answer begins": f"{found['head_median_s']} s, 95 %: {found['head_p95_s']} s",
        "nobody runs or waits": "never" if idle_s is None else f"after {idle_s} s",
        "refusals": f"{books['refusals_seen']} seen, {books['refusals_counted']} counted",
        "accounts agree": str(books["refusals_agree"] and books["requests_agree"]),
        **{
            f"{who}, MiB": f"{before[f'{who}_mib']} → {after[f'{who}_mib']}, "
            f"{found[f'{who}_growth_percent']:+.1f} % since warm (flat: {FLAT_PERCENT} %)"
            for who in ("daemon", "child")
        },
        **{
            f"{who}, open files": f"{before[f'{who}_files']} → {after[f'{who}_files']}, at most "
            f"{max(sample[f'{who}_files'] for sample in found['samples'])}"
            for who in ("daemon", "child")
        },
    }
    head = f"{found['clients']} clients, {found['elapsed_s']:.0f} s"
    return readings.markdown((head, ""), [*rows.items()])


def as_json(found: dict[str, Any]) -> str:
    """All of it, a sample a line."""
    rest = {name: value for name, value in found.items() if name != "samples"}
    samples = ",\n  ".join(json.dumps(sample) for sample in found["samples"])
    head = json.dumps(rest, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{head},\n "samples": [\n  {samples}\n ]\n}}\n'


def main() -> None:
    """Print what was found; exit status 1 if something of it should not be."""
    parser = readings.arguments(__doc__)
    parser.add_argument("--clients", type=readings.positive, default=64)
    parser.add_argument("--seconds", type=readings.above_zero, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = measure(options.clients, options.seconds, options.seed)
    readings.say(options.json, table(found))
    readings.write(options.json, as_json(found))
    if wrong := complaints(found):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
