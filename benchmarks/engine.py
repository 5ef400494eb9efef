"""Decode, prefill and step overhead on this machine, beside the peers that are installed.

    python -m benchmarks.engine                     # 0.6B shape, a few minutes on two cores
    python -m benchmarks.engine --shape small --rounds 1 --json result.json
    python -m benchmarks.engine --profile trace.json             # what helexa's steps are made of

All engines load the same random weights and take turns, several rounds; the table gives medians
and the ratio of helexa to each peer, pair by pair in the same round, with its least and most. In
front of and behind each turn the speed of reading memory is measured, too. What part of it decoding
with 16-bit weights reached is told: a step reads all weights (of an untied embedding nothing) and
the keys and values of what it has behind it, counted in 16 bits whatever an engine keeps them in.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks import readings
from benchmarks.engine_table import table
from benchmarks.engines import (
    COMPILED,
    CONTEXT,
    ENGINES,
    PLAIN,
    Times,
    Work,
    Worker,
    available,
    greedy,
    helexa_core,
    measured_one,
    random_ids,
)
from benchmarks.gguf_export import FORMATS
from benchmarks.overhead import overhead_per_step
from benchmarks.shapes import SHAPES, make_checkpoint, step_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from helexa.engine.core import EngineCore
    from helexa.engine.outputs import StepOutput

KINDS = ("prefill", "decode")
SUMS = 7


def main() -> None:
    args = arguments()
    folder = make_checkpoint(args.shape, args.folder)
    if args.profile:
        write_profiles(folder, args)
        return
    without = [*args.without, *([] if args.compile else [COMPILED])]
    engines = [name for name in ENGINES if available(name) and name not in without]
    absent = [name for name in ENGINES if not available(name)]
    rows: list[dict[str, Any]] = []
    with Console(stderr=True).status("measuring") as status:
        for format in args.formats:
            status.update(f"{format}: making and loading")
            rows += measured(format, folder, engines, args, status.update)
        status.update("the overhead of a step")
        overhead = {str(count): overhead_per_step(count) for count in (1, 32)}
    read = [speed for row in rows for each in row["read_gb_s"].values() for speed in each]
    result = {**about(args), "absent": absent, "rows": rows, "overhead_ms": overhead}
    readings.say(args.json, f"Qwen3 {args.shape} shape, tokens per second\n", table(rows, engines))
    if absent:
        readings.say(args.json, f"not installed, so not measured: {', '.join(absent)}")
    readings.say(args.json, f"read bandwidth {readings.spread(read, '.1f', ' GB/s')}")
    for count, value in overhead.items():
        readings.say(args.json, f"engine overhead per step, {count} rows: {value:.3f} ms")
    readings.write(args.json, result)


def write_profiles(folder: Path, args: argparse.Namespace) -> None:
    """For each format a trace of helexa's prefill and decode steps, and a table of the latter."""
    from benchmarks.profiling import beside, document, profiled, table

    found = []
    for format in args.formats:
        core = helexa_core(folder, format, args.threads, compile=args.compile)
        for _, step in core_steps(core, Work(args.prompts[0], 4, seed=0)):  # warms up
            step()
        works = core_steps(core, Work(args.prompts[0], args.decode, seed=1))
        several = len(args.formats) > 1
        to = beside(args.profile, format) if several else args.profile
        layers = SHAPES[args.shape]["num_hidden_layers"]
        operators = profiled(works, to)
        core.close()
        title = f"{args.shape}, {format}, behind {args.prompts[0]}\n"
        readings.say(args.json, title, table(operators, layers), f"\ntrace: {to}")
        found.append({"format": format, "operators": document(operators, layers)})
    more = {"compiled": args.compile, "prompt": args.prompts[0]}
    readings.write(args.json, {**about(args), **more, "profiles": found})


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
            turns = [*workers[index % len(workers) :], *workers[: index % len(workers)]]
            rounds.append({"prompt": work.prompt, **one_round(turns, work, args.threads)})
    for worker in workers:
        worker.close()
    return [row(kind, format, p, rounds, args) for p in args.prompts for kind in KINDS]


def one_round(workers: Sequence[Worker], work: Work, threads: int) -> dict[str, Any]:
    """Times by engine, and the bandwidth just before and after each of them, their mean."""
    times, read = {}, {}
    before = read_bandwidth(threads)
    for worker in workers:
        times[worker.name] = worker.measure(work)
        after = read_bandwidth(threads)
        read[worker.name] = (before + after) / 2
        before = after
    return {"times": times, "read_gb_s": read}


def arguments() -> argparse.Namespace:
    parser = readings.arguments(__doc__)
    add, positive = parser.add_argument, readings.positive
    add("--shape", choices=list(SHAPES), default="0.6b")
    add("--formats", nargs="+", choices=FORMATS, default=[PLAIN])
    add("--prompts", type=positive, nargs="+", default=[128, 1024])
    add("--decode", type=readings.at_least(2), default=24, help="tokens decoded per measurement")
    add("--rounds", type=positive, default=3)
    add("--threads", type=positive, default=default_threads())
    add("--compile", action="store_true", help="measure helexa compiled, too")
    add("--without", nargs="*", choices=ENGINES, default=[], help="engines to leave out")
    folder = Path(tempfile.gettempdir()) / "helexa-benchmarks"
    add("--folder", type=readings.new_folder, default=folder)
    add(
        *("--profile",),
        type=readings.new_file,
        metavar="FILE",
        help="write a trace of helexa's steps; no more (but --json, what a step is made of)",
    )
    args = parser.parse_args()
    if (longest := max(args.prompts) + args.decode) > CONTEXT:
        parser.error(f"{longest} tokens of prompt and answer; engines have room for {CONTEXT}")
    return args


def default_threads() -> int:
    import torch

    return torch.get_num_threads()


def about(args: argparse.Namespace) -> dict[str, Any]:
    """The head of a result."""
    import helexa

    names = ("shape", "threads", "rounds", "decode")
    return {
        **readings.about(),
        "helexa": helexa.__version__,
        **{name: getattr(args, name) for name in names},
    }


def row(
    kind: str, format: str, prompt: int, rounds: list[dict[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    """Medians in tokens per second, helexa's ratios to the others, and all that they are of.

    Where weights have 16 bits and are decoded with, also the part of the read bandwidth around its
    turn that each engine reached.
    """
    mine = [one for one in rounds if one["prompt"] == prompt]
    speeds = {
        name: [speed(kind, one["times"][name], prompt, args.decode) for one in mine]
        for name in mine[0]["times"]
    }
    subject = measured_one(list(speeds))
    ratios = {
        name: [a / b for a, b in zip(speeds[subject], theirs, strict=True)]
        for name, theirs in speeds.items()
        if subject in speeds and name != subject
    }
    read = {name: [one["read_gb_s"][name] for one in mine] for name in speeds}
    found: dict[str, Any] = {
        **{"format": format, "work": f"{kind} @{prompt}"},
        "tok_s": {name: statistics.median(values) for name, values in speeds.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        **{"read_gb_s": read, "all": speeds, "ratios": ratios},
        "seconds": [{name: asdict(times) for name, times in one["times"].items()} for one in mine],
    }
    if kind == "decode" and format == PLAIN:
        each = step_bytes(args.shape, prompt + args.decode / 2)
        found["step_bytes"] = each
        found["of_bandwidth"] = {
            name: [each * s / 1e9 / most for s, most in zip(values, read[name], strict=True)]
            for name, values in speeds.items()
        }
    return found


def speed(kind: str, times: Times, prompt: int, decode: int) -> float:
    return prompt / times.prefill_s if kind == "prefill" else (decode - 1) / times.decode_s


def read_bandwidth(threads: int) -> float:
    """GB/s at which this machine reads memory, by summing a tensor far larger than its caches.

    The median of several sums, as what is held to it is no fastest moment either.
    """
    import torch

    torch.set_num_threads(threads)
    data = far_too_large()
    seconds = []
    for _ in range(SUMS):
        begin = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - begin)
    return data.nbytes / statistics.median(seconds) / 1e9


@cache
def far_too_large() -> Tensor:
    """512 MiB, written, so that they are there."""
    import torch

    return torch.ones(2**27)


if __name__ == "__main__":
    main()
