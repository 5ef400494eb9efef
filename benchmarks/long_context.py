"""Whether speed falls off a cliff: over context length, batch size and prompt length.

    python -m benchmarks.long_context                           # some minutes on two cores
    python -m benchmarks.long_context --size tiny --rounds 1    # to see that it works

For each architecture tokens per second are measured with the engine's own steps, on contexts that
are not computed: keys, values and states are filled with noise, which costs the same time to read.
Beside the slowdown from the shortest to the longest context stands what the bytes say that a step
has to read: weights (of the chosen experts), keys and values, and states.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.architectures import ARCHITECTURES, CHOSEN, EXPERTS, SIZES, make_architecture
from benchmarks.line_plot import line_plot
from helexa.engine.graphs import decode_graphs
from helexa.engine.layers.experts import Experts
from helexa.engine.loading import load_model
from helexa.engine.models.model import BLOCK_SIZE, Model
from helexa.engine.runner import Runner

CONTEXTS = (128, 1024, 4096, 16384, 32768)
BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = (128, 512, 2048)
CHUNK = 512
BATCH_CONTEXT = 512
KINDS = {"context": "decode, one stream", "batch": "decode, all streams", "prompt": "prefill"}


def main() -> None:
    args = arguments()
    console = Console()
    found: dict[str, Any] = {}
    with console.status("measuring") as status:
        for name in args.architectures:
            model = load_model(make_architecture(name, args.size, Path(args.folder)))
            found[name] = measured(model, args, lambda what, name=name: status.update(name + what))
    device = str(model.device)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        **{name: getattr(args, name) for name in ("size", "rounds", "steps", "threads")},
        "tok_s": found,
    }
    for kind in KINDS:
        console.print(table(kind, found))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    for kind in KINDS if args.plots else ():
        lines = {name: values[kind] for name, values in found.items()}
        file = Path(args.plots) / f"{kind}.svg"
        file.write_text(line_plot(f"{KINDS[kind]}, tokens/s", f"{kind} (tokens or rows)", lines))


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(ARCHITECTURES)
    parser.add_argument("--architectures", nargs="+", choices=names, default=names)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--prompts", type=int, nargs="+", default=list(PROMPTS))
    parser.add_argument("--steps", type=int, default=8, help="tokens decoded per reading")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "helexa-benchmarks"))
    parser.add_argument("--json", help="write everything to this file")
    parser.add_argument("--plots", help="write SVG files into this folder")
    return parser


def arguments() -> argparse.Namespace:
    args = options().parse_args()
    torch.set_num_threads(args.threads)
    return args


def measured(model: Model, args: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Tokens per second by context, batch size and prompt length; the readings take turns."""
    blocks = max(
        (max(args.contexts) + args.steps) // BLOCK_SIZE + 1,
        max(args.batches) * ((BATCH_CONTEXT + args.steps) // BLOCK_SIZE + 1),
        max(args.prompts) // BLOCK_SIZE + 1,
    )
    cache = model.new_cache(blocks, states=max(args.batches))
    runner = Runner(model, cache, graphs=decode_graphs(model, cache))
    readings: dict[tuple[str, int], list[float]] = {}
    for index in range(args.rounds + 1):  # the first warms up
        tell(f": round {index} of {args.rounds}")
        fill(runner)
        for context in args.contexts:
            speed = decode(runner, 1, context, args.steps)
            readings.setdefault(("context", context), []).append(speed)
        for batch in args.batches:
            speed = decode(runner, batch, BATCH_CONTEXT, args.steps)
            readings.setdefault(("batch", batch), []).append(speed)
        for length in args.prompts if index < 3 else ():
            readings.setdefault(("prompt", length), []).append(prefill(runner, length))
    found: dict[str, Any] = {kind: {} for kind in KINDS}
    for (kind, value), speeds in readings.items():
        found[kind][value] = statistics.median(speeds[1:])
    ends = min(args.contexts), max(args.contexts)
    found["bytes"] = [step_bytes(model, context) for context in ends]
    return found


def fill(runner: Runner) -> None:
    """Noise for keys, values and states."""
    cache = runner.cache
    cache.memory.normal_(std=0.5)
    if cache.states is not None:
        cache.states.conv.normal_(std=0.5)
        cache.states.recurrent.normal_(std=0.05)


def decode(runner: Runner, batch: int, context: int, steps: int) -> float:
    """Tokens per second of ``batch`` sequences that have ``context`` tokens behind them."""
    each = (context + steps) // BLOCK_SIZE + 1
    rows = [(range(i * each, (i + 1) * each), i) for i in range(batch)]
    begin = time.perf_counter()
    for step in range(steps):
        parts = [([7 + i], context + step, blocks, True, i) for blocks, i in rows]
        runner.run(parts).argmax(-1).tolist()
    return batch * steps / (time.perf_counter() - begin)


def prefill(runner: Runner, length: int) -> float:
    """Tokens per second of a prompt, in the engine's chunks."""
    ids, blocks = [3 + i % 500 for i in range(length)], range(length // BLOCK_SIZE + 1)
    begin = time.perf_counter()
    for start in range(0, length, CHUNK):
        logits = runner.run([(ids[start : start + CHUNK], start, blocks, True, 0)])
    logits.argmax(-1).tolist()
    return length / (time.perf_counter() - begin)


def step_bytes(model: Model, context: int) -> int:
    """Bytes that a decode step of one stream reads and, of a state, writes."""
    stacks = sum(m.nbytes for m in model.modules() if isinstance(m, Experts))
    weights = model.nbytes - stacks + stacks * CHOSEN // EXPERTS
    return weights + model.kv_bytes_per_token * context + 2 * model.state_bytes


def table(kind: str, found: dict[str, Any]) -> Table:
    out = Table(title=f"{KINDS[kind]}: tokens per second by {kind}")
    out.add_column("architecture")
    values = list(next(iter(found.values()))[kind])
    for value in values:
        out.add_column(str(value), justify="right")
    out.add_column("last / first", justify="right")
    if kind == "context":
        out.add_column("by bytes", justify="right")
    for name, one in found.items():
        speeds = [one[kind][value] for value in values]
        cells = [f"{speed:.1f}" for speed in speeds] + [f"{speeds[-1] / speeds[0]:.2f} ×"]
        if kind == "context":
            cells.append(f"{one['bytes'][0] / one['bytes'][1]:.2f} ×")
        out.add_row(name, *cells)
    return out


if __name__ == "__main__":
    main()
