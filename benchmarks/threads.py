"""How many threads, and how they wait for each other: decoding with the cores free, and shared.

    python -m benchmarks.threads                       # six layers of Qwen3 0.6B, some minutes
    python -m benchmarks.threads --shape small --rounds 1 --tokens 8

Each setting is a process of its own, since OpenMP reads its environment once, when torch is
imported. They take turns: first with the cores for themselves, then beside a loop that keeps one
core busy, as another program on a shared machine does. A decode step has hundreds of parallel
regions of some 50 microseconds, at the end of each of which threads wait: by spinning for a while,
or by sleeping at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.readings import arguments, new_folder, positive, publish, spread
from benchmarks.shapes import SHAPES, make_checkpoint

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_WAIT_POLICY=active": {"OMP_WAIT_POLICY": "active"},
    "OMP_PROC_BIND=true": {"OMP_PROC_BIND": "true"},
}
SET_HERE = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_PROC_BIND")
BUSY = "while True: pass"
DECODING = """
import json, sys, time
import torch
from benchmarks.engines import greedy, helexa_core
from pathlib import Path
folder, tokens, compiled = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
core = helexa_core(folder, "16 bit", torch.get_num_threads(), compile=compiled)
def ask(count):
    core.submit(greedy(list(range(100, 164)), count))
    times = []
    while not core.idle:
        began = time.perf_counter()
        told = core.step()
        if any(output.token_ids for output in told):
            times.append(time.perf_counter() - began)
    return times[1:]
ask(4)
print("ready", flush=True)
for line in sys.stdin:
    used = time.process_time()
    times = ask(tokens + 1)
    print(json.dumps([sum(times), time.process_time() - used]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Medians over the rounds: tokens per second and processor milliseconds per token.

    ``free`` and ``shared`` are both of every round, alone and beside busy loops.
    """

    threads: int
    setting: str
    free_tok_s: float
    shared_tok_s: float
    free_cpu_ms: float
    shared_cpu_ms: float
    free: list[tuple[float, float]]
    shared: list[tuple[float, float]]


class Worker:
    """A process that decodes with a setting when it is asked to.

    It is stopped while others are: idle threads may spin, some for ever.
    """

    def __init__(self, threads: int, setting: str, model: Path, options: argparse.Namespace):
        self.threads, self.setting, self.tokens = threads, setting, options.tokens
        kept = {name: value for name, value in os.environ.items() if name not in SET_HERE}
        environ = {
            **kept,
            **SETTINGS[setting],
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", DECODING, str(model), str(self.tokens), str(options.compile)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()
        self.process.send_signal(signal.SIGSTOP)

    def read(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.setting}: its process died; its error is above")
        return line

    def decode(self) -> tuple[float, float]:
        """Tokens per second, and processor milliseconds per token."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, used = json.loads(self.read())
        self.process.send_signal(signal.SIGSTOP)
        return self.tokens / seconds, 1e3 * used / self.tokens

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.communicate()


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many cores that have something else to do."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(options: argparse.Namespace, model: Path) -> list[Decoding]:
    """One thread with the first setting, since it waits for nobody; more with all of them."""
    first = next(iter(SETTINGS))
    places = [
        (threads, setting)
        for threads in options.threads
        for setting in SETTINGS
        if threads > 1 or setting == first
    ]
    workers = [Worker(threads, setting, model, options) for threads, setting in places]
    found: dict[tuple[Worker, int], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for loops in (0, options.loops):
            for worker in workers:
                with busy(loops):
                    found.setdefault((worker, loops), []).append(worker.decode())
    for worker in workers:
        worker.close()
    rows = []
    for worker in workers:
        free, shared = found[worker, 0], found[worker, options.loops]
        pairs = zip(*free, strict=True), zip(*shared, strict=True)
        (free_speed, free_cpu), (shared_speed, shared_cpu) = (
            [statistics.median(values) for values in pair] for pair in pairs
        )
        speeds = free_speed, shared_speed, free_cpu, shared_cpu
        rows.append(Decoding(worker.threads, worker.setting, *speeds, free, shared))
    return rows


def main() -> None:
    """Print a line for each setting."""
    cores = len(os.sched_getaffinity(0))
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="six-layers")
    parser.add_argument("--threads", type=positive, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--loops", type=positive, default=1, help="busy loops beside it")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--tokens", type=positive, default=24, help="decoded per turn")
    parser.add_argument("--compile", action="store_true")
    folder = Path(tempfile.gettempdir()) / "helexa-benchmarks"
    parser.add_argument("--folder", type=new_folder, default=folder)
    options = parser.parse_args()
    model = make_checkpoint(options.shape, options.folder)
    names = ("shape", "loops", "rounds", "tokens", "compile")
    about = {name: getattr(options, name) for name in names}
    publish(
        options.json,
        {**about, "cores": cores, "threads": options.threads},
        measure(options, model),
        {
            "threads": lambda o: f"{o.threads}",
            "setting": lambda o: o.setting,
            "tokens/s": lambda o: spread([speed for speed, _ in o.free], ".1f", ""),
            "beside a busy loop": lambda o: spread([speed for speed, _ in o.shared], ".1f", ""),
            "CPU ms a token": lambda o: f"{o.free_cpu_ms:.1f}",
            "beside a loop": lambda o: f"{o.shared_cpu_ms:.1f}",
        },
    )


if __name__ == "__main__":
    main()
