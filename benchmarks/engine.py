"""Decode, prefill and step overhead on this machine, beside the peers that are installed.

    python -m benchmarks.engine                     # 0.6B shape, a few minutes on two cores
    python -m benchmarks.engine --shape small --rounds 1 --json result.json
    python -m benchmarks.engine --profile trace.json             # what helexa's steps are made of

All engines load the same random weights and take turns, several rounds; the table gives medians
and the ratio of helexa to each peer, pair by pair in the same round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.engines import (
    COMPILED,
    ENGINES,
    Times,
    Work,
    Worker,
    available,
    greedy,
    helexa_core,
    random_ids,
)
from benchmarks.gguf_export import FORMATS
from benchmarks.overhead import overhead_per_step
from benchmarks.shapes import SHAPES, make_checkpoint

if TYPE_CHECKING:
    from helexa.engine.core import EngineCore
    from helexa.engine.outputs import StepOutput


def main() -> None:
    args = arguments()
    console = Console()
    folder = make_checkpoint(args.shape, Path(args.folder))
    if args.profile:
        write_profiles(folder, args, console)
        return
    without = [*args.without, *([] if args.compile else [COMPILED])]
    engines = [name for name in ENGINES if available(name) and name not in without]
    absent = [name for name in ENGINES if not available(name)]
    rows: list[dict[str, Any]] = []
    with console.status("measuring") as status:
        for format in args.formats:
            status.update(f"{format}: making and loading")
            rows += measured(format, folder, engines, args, status.update)
        status.update("read bandwidth and step overhead")
        result = {
            **about(args),
            "absent": absent,
            "read_gb_s": read_bandwidth(args.threads),
            "rows": rows,
            "overhead_ms": {str(rows): overhead_per_step(rows) for rows in (1, 32)},
        }
    console.print(table(result, engines))
    if absent:
        console.print(f"not installed, so not measured: {', '.join(absent)}")
    console.print(f"read bandwidth {result['read_gb_s']:.1f} GB/s")
    for rows, value in result["overhead_ms"].items():
        console.print(f"engine overhead per step, {rows} rows: {value:.3f} ms")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


def write_profiles(folder: Path, args: argparse.Namespace, console: Console) -> None:
    """For each format a trace of helexa's prefill and decode steps, and a table of the latter."""
    from benchmarks.profiling import beside, profiled, table

    for format in args.formats:
        core = helexa_core(folder, format, args.threads, compile=args.compile)
        for _, step in core_steps(core, Work(args.prompts[0], 4, seed=0)):  # warms up
            step()
        works = core_steps(core, Work(args.prompts[0], args.decode, seed=1))
        several = len(args.formats) > 1
        to = beside(args.profile, format) if several else args.profile
        layers = SHAPES[args.shape]["num_hidden_layers"]
        found = profiled(works, to)
        console.print(table(f"{args.shape}, {format}, behind {args.prompts[0]}", found, layers))
        console.print(f"trace of prefill and decode: {to}")
        core.close()


def core_steps(core: EngineCore, work: Work) -> Iterator[tuple[str, Callable[[], object]]]:
    """The steps of a request by their names, each to be run before the next is asked for."""
    from benchmarks.profiling import DECODE, PREFILL

    core.submit(greedy(random_ids(work), work.decode))
    name = PREFILL
    while not core.idle:
        told: list[StepOutput] = []
        yield name, lambda told=told: told.extend(core.step())
        if any(output.token_ids for output in told):
            name = DECODE


KINDS = ("prefill", "decode")


def measured(
    format: str,
    folder: Path,
    engines: list[str],
    args: argparse.Namespace,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The rows of one format, from the engines that run it."""
    names = [name for name in engines if available(name, format)]
    workers = [Worker(name, folder, format, args.threads) for name in names]
    works = [Work(prompt, args.decode, seed=prompt) for prompt in args.prompts]
    rounds: list[dict[str, Any]] = []
    for index in range(args.rounds):
        for work in works:
            tell(f"{format}: round {index + 1} of {args.rounds}, prompt {work.prompt}")
            times = {worker.name: worker.measure(work) for worker in workers}
            rounds.append({"prompt": work.prompt, "times": times})
    for worker in workers:
        worker.close()
    found = [row(kind, p, rounds, args.decode) for p in args.prompts for kind in KINDS]
    return [{"format": format, **one} for one in found]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="0.6b")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["16 bit"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--decode", type=int, default=24, help="tokens decoded per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--compile", action="store_true", help="measure helexa compiled, too")
    parser.add_argument("--without", nargs="*", default=[], help="engines to leave out")
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "helexa-benchmarks"))
    parser.add_argument("--json", help="write everything to this file")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="write a trace of helexa's steps; no more"
    )
    return parser.parse_args()


def default_threads() -> int:
    import torch

    return torch.get_num_threads()


def about(args: argparse.Namespace) -> dict[str, Any]:
    """What a figure is worth nothing without: when, where and what was run."""
    import torch

    import helexa

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "helexa": helexa.__version__,
        "shape": args.shape,
        "threads": args.threads,
        "rounds": args.rounds,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "?")


def row(kind: str, prompt: int, rounds: list[dict[str, Any]], decode: int) -> dict[str, Any]:
    """Medians in tokens per second, and helexa's ratio to each other within the rounds."""
    mine = [one["times"] for one in rounds if one["prompt"] == prompt]
    speeds = {
        name: [speed(kind, times[name], prompt, decode) for times in mine] for name in mine[0]
    }
    subject = measured_one(list(speeds))
    ours = speeds.get(subject)
    ratios = {
        name: statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        for name, theirs in speeds.items()
        if ours and name != subject
    }
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {"work": f"{kind} @{prompt}", "tok_s": medians, "ratio": ratios, "all": speeds}


def measured_one(engines: list[str]) -> str:
    """Whose ratios to the others are told: helexa's, compiled if that is measured."""
    return COMPILED if COMPILED in engines else "helexa"


def speed(kind: str, times: Times, prompt: int, decode: int) -> float:
    return prompt / times.prefill_s if kind == "prefill" else (decode - 1) / times.decode_s


def read_bandwidth(threads: int) -> float:
    """GB/s at which this machine reads memory, by summing a tensor far larger than its caches."""
    import torch

    torch.set_num_threads(threads)
    data = torch.ones(2**27)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - begin)
    return data.nbytes / best / 1e9


def table(result: dict[str, Any], engines: list[str]) -> Table:
    out = Table(title=f"Qwen3 {result['shape']} shape, tokens per second (median)")
    out.add_column("format")
    out.add_column("work")
    for name in engines:
        out.add_column(name, justify="right")
    subject = measured_one(engines)
    peers = [name for name in engines if name != subject]
    for name in peers:
        out.add_column(f"{subject} / {name}", justify="right")
    for line in result["rows"]:
        speeds = [f"{line['tok_s'][n]:.1f}" if n in line["tok_s"] else "" for n in engines]
        ratios = [f"{line['ratio'][name]:.2f} ×" if name in line["ratio"] else "" for name in peers]
        out.add_row(line["format"], line["work"], *speeds, *ratios)
    return out


if __name__ == "__main__":
    main()
