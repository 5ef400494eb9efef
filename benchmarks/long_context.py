"""Whether speed falls off a cliff: over context length, batch size and prompt length.

    python -m benchmarks.long_context                           # some minutes on two cores
    python -m benchmarks.long_context --size tiny --rounds 1    # to see that it works
    python -m benchmarks.long_context --of result.json --plots benchmarks/results    # to plot again

For each architecture tokens per second are measured with the engine's own steps, on contexts that
are not computed: keys, values and states are filled with noise, which costs the same time to read.
With `--compile` each model is there twice, with compiled kernels and without, and both take turns.
Beside the slowdown from the shortest to the longest context stands what the bytes say that a step
has to read: weights (of the chosen experts), keys and values, and states.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import readings
from benchmarks.architectures import ARCHITECTURES, CHOSEN, EXPERTS, SIZES, make_architecture
from benchmarks.line_plot import line_plot
from benchmarks.profiling import DECODE, profiled
from benchmarks.profiling import beside as trace_beside
from benchmarks.profiling import table as operator_table
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
HEAD = ("date", "command", "machine", "torch", "threads", "size", "rounds", "steps")
COMPILED = ", compiled"
"""Behind the name of an architecture whose models have compiled kernels."""
PROMPT_ROUNDS = 5
"""Of prompts, which take longest and differ least."""
AXES = {"context": "tokens of context", "batch": "streams", "prompt": "tokens of the prompt"}


def main() -> None:
    args = arguments()
    result = merged(args.of) if args.of else measured_now(args)
    found = result["tok_s"]
    for kind in KINDS:
        if lines := {name: values for name, values in found.items() if values.get(kind)}:
            readings.say(args.json, f"{KINDS[kind]}: tokens per second by {kind}\n")
            readings.say(args.json, table(kind, lines), "")
            if beside := beside_plain(kind, lines):
                readings.say(args.json, "compiled, as a multiple of the same without\n")
                readings.say(args.json, beside, "")
    readings.write(args.json, result)
    if args.plots:
        write_plots(found, args.plots)


def measured_now(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, measured on this machine."""
    found: dict[str, Any] = {}
    device = "cpu"
    with Console(stderr=True).status("measuring") as status:
        for architecture in args.architectures:
            folder = make_architecture(architecture, args.size, args.folder)
            models = {architecture: load_model(folder)}
            if args.compile:
                models[architecture + COMPILED] = load_model(folder, compile=True)
            if args.profile:
                for name, model in models.items():
                    to = trace_beside(args.profile, name)
                    readings.say(args.json, profile(name, model, args, to))
            found |= measured(
                models, args, lambda what, name=architecture: status.update(name + what)
            )
            device = str(models[architecture].device)
    return {
        **readings.about(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        **{name: getattr(args, name) for name in ("size", "rounds", "steps", "threads")},
        "tok_s": in_order(found),
    }


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """Results as one: what a later file has measured replaces what an earlier one has.

    Compiled models come after all others. ``of`` has the heads of the runs; the rest of the head is
    the last one's.
    Raises SystemExit for results that cannot stand side by side.
    """
    whole: dict[str, Any] = {}
    runs = []
    for file in files:
        result = json.loads(file.read_text())
        runs += result.get("of", [{name: result[name] for name in HEAD if name in result}])
        for name in ("size", "threads", "device"):
            if whole and whole.get(name) != result.get(name):
                raise SystemExit(f"{file} has another {name} than the results before it")
        speeds = whole.get("tok_s", {})
        for name, kinds in result["tok_s"].items():
            known = {kind: values for kind, values in kinds.items() if values}
            mine = speeds.setdefault(name, {})
            for of_kinds in ("rounds", "of_plain"):
                before = mine.pop(of_kinds, {})
                kept = {kind: values for kind, values in before.items() if kind not in known}
                if every := {**kept, **kinds.get(of_kinds, {})}:
                    known[of_kinds] = every
            mine |= known
            compiled = name + COMPILED
            if compiled not in result["tok_s"]:  # its ratios were to what is replaced now
                ratios = speeds.get(compiled, {}).get("of_plain", {})
                for kind in known:
                    ratios.pop(kind, None)
        whole |= {**result, "tok_s": speeds}
    return {**whole, "of": runs, "tok_s": in_order(whole["tok_s"])}


def in_order(found: dict[str, Any]) -> dict[str, Any]:
    """Compiled models after all others."""
    return dict(sorted(found.items(), key=lambda one: one[0].endswith(COMPILED)))


def write_plots(found: dict[str, Any], folder: Path) -> None:
    """A file for each kind that has been measured: tokens per second of each architecture."""
    for kind, what in KINDS.items():
        lines = {
            name: {int(value): speed for value, speed in kinds[kind].items()}
            for name, kinds in found.items()
            if kinds.get(kind)
        }
        if lines:
            plot = line_plot(f"{what}, tokens/s", AXES[kind], lines)
            (folder / f"by-{kind}.svg").write_text(plot)


def options() -> argparse.ArgumentParser:
    parser = readings.arguments(__doc__)
    names, positive = list(ARCHITECTURES), readings.positive
    folder = Path(tempfile.gettempdir()) / "helexa-benchmarks"
    parser.add_argument("--architectures", nargs="+", choices=names, default=names)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--contexts", type=positive, nargs="*", default=list(CONTEXTS))
    parser.add_argument("--batches", type=positive, nargs="*", default=list(BATCHES))
    parser.add_argument("--prompts", type=positive, nargs="*", default=list(PROMPTS))
    parser.add_argument("--compile", action="store_true", help="models with compiled kernels, too")
    parser.add_argument("--steps", type=positive, default=8, help="tokens decoded per reading")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--folder", type=readings.new_folder, default=folder)
    parser.add_argument(
        "--plots", type=readings.old_folder, help="write SVG files into this folder"
    )
    parser.add_argument(
        *("--of",),
        type=readings.old_file,
        nargs="+",
        help="measure nothing: show these results",
    )
    parser.add_argument(
        "--profile",
        type=readings.new_file,
        metavar="FILE",
        help="also write a trace for each architecture",
    )
    return parser


def arguments() -> argparse.Namespace:
    parser = options()
    args = parser.parse_args()
    if not (args.contexts or args.batches or args.prompts):
        parser.error("nothing is to be measured: neither contexts, batches nor prompts")
    torch.set_num_threads(args.threads)
    return args


def measured(
    models: dict[str, Model], args: argparse.Namespace, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Each one's tokens per second by context, batch size and prompt length; all take turns."""
    streams = max(args.batches, default=1)
    blocks = max(
        (max(args.contexts, default=0) + args.steps) // BLOCK_SIZE + 1,
        streams * ((BATCH_CONTEXT + args.steps) // BLOCK_SIZE + 1),
        max(args.prompts, default=0) // BLOCK_SIZE + 1,
    )
    runners = {name: new_runner(model, blocks, streams) for name, model in models.items()}
    taken: dict[tuple[str, str, int], list[float]] = {}
    for index in range(args.rounds + 1):  # the first warms up
        tell(f": round {index} of {args.rounds}")
        for runner in runners.values():
            fill(runner)
        for kind, value in works(args, prompts=index <= PROMPT_ROUNDS):
            for name, runner in runners.items():
                speed = reading(runner, kind, value, args.steps)
                taken.setdefault((name, kind, value), []).append(speed)
    found = {name: medians(taken, name) for name in models}
    for name, model in models.items():
        if args.contexts:
            ends = min(args.contexts), max(args.contexts)
            found[name]["bytes"] = [step_bytes(model, context) for context in ends]
        plain = name.removesuffix(COMPILED)
        if plain != name:
            found[name]["of_plain"] = ratios(found[name]["rounds"], found[plain]["rounds"])
    return found


def medians(taken: dict[tuple[str, str, int], list[float]], name: str) -> dict[str, Any]:
    """A model's, by kind and value, and its ``rounds``; the first of those has warmed up."""
    rounds: dict[str, dict[str, list[float]]] = {}
    for (of, kind, value), speeds in taken.items():
        if of == name:
            rounds.setdefault(kind, {})[str(value)] = speeds[1:]
    return {
        **{
            kind: {x: statistics.median(y) for x, y in rounds.get(kind, {}).items()}
            for kind in KINDS
        },
        "rounds": rounds,
    }


def ratios(
    mine: dict[str, dict[str, list[float]]], plain: dict[str, dict[str, list[float]]]
) -> dict[str, dict[str, list[float]]]:
    """Speeds as multiples of ``plain`` ones, within each round."""
    return {
        kind: {
            value: [a / b for a, b in zip(speeds, plain[kind][value], strict=True)]
            for value, speeds in values.items()
        }
        for kind, values in mine.items()
    }


def works(args: argparse.Namespace, *, prompts: bool) -> list[tuple[str, int]]:
    """What is measured in a round: its kind, and how much of it."""
    return [
        *(("context", context) for context in args.contexts),
        *(("batch", batch) for batch in args.batches),
        *(("prompt", length) for length in (args.prompts if prompts else ())),
    ]


def reading(runner: Runner, kind: str, value: int, steps: int) -> float:
    """Tokens per second of one of `works`."""
    if kind == "prompt":
        return prefill(runner, value)
    if kind == "batch":
        return decode(runner, value, BATCH_CONTEXT, steps)
    return decode(runner, 1, value, steps)


def new_runner(model: Model, blocks: int, streams: int) -> Runner:
    """One with noise for keys, values and states."""
    cache = model.new_cache(blocks, states=streams)
    runner = Runner(model, cache, graphs=decode_graphs(model, cache))
    fill(runner)
    return runner


def profile(name: str, model: Model, args: argparse.Namespace, to: Path) -> str:
    """Write a trace of decode steps behind the longest context; what they are made of."""
    context = max(args.contexts, default=BATCH_CONTEXT)
    runner = new_runner(model, (context + 1) // BLOCK_SIZE + 1, 1)
    decode(runner, 1, context, 1)
    works = [(DECODE, lambda: decode(runner, 1, context, 1))] * args.steps
    layers = model.config.num_hidden_layers
    return f"{name}, behind {context}\n\n{operator_table(profiled(works, to), layers)}\n"


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


def table(kind: str, found: dict[str, Any]) -> str:
    """A line for each architecture; the ratio is of its own last and first, see `step_bytes`."""
    values = sorted({value for one in found.values() for value in one[kind]}, key=int)
    header = ["architecture", *values, "last / first", *(["by bytes"] if kind == "context" else [])]
    rows = []
    for name, one in found.items():
        own = [one[kind][value] for value in values if value in one[kind]]
        cells = [f"{one[kind][value]:.1f}" if value in one[kind] else "" for value in values]
        every = [one.get("rounds", {}).get(kind, {}).get(value) for value in values]
        of_all = [each for value, each in zip(values, every, strict=True) if value in one[kind]]
        cells.append(end_to_end(own, of_all))
        if kind == "context":
            low, high = one.get("bytes", (1, 1))
            cells.append(f"{low / high:.2f} ×")
        rows.append([name, *cells])
    return readings.markdown(header, rows)


def beside_plain(kind: str, found: dict[str, Any]) -> str:
    """Compiled models' speeds as multiples of the same without; empty if there are none."""
    lines = {name: of for name, one in found.items() if (of := one.get("of_plain", {}).get(kind))}
    values = sorted({value for of in lines.values() for value in of}, key=int)
    rows = [
        [name, *(readings.spread(of[value]) if value in of else "" for value in values)]
        for name, of in lines.items()
    ]
    return readings.markdown(["architecture", *values], rows) if rows else ""


def end_to_end(medians: Sequence[float], rounds: Sequence[Sequence[float] | None]) -> str:
    """The last speed as a multiple of the first: round by round, where each is known."""
    first, last = rounds[0], rounds[-1]
    if first is None or last is None:
        return f"{medians[-1] / medians[0]:.2f} ×"
    return readings.spread([b / a for a, b in zip(first, last, strict=True)])


if __name__ == "__main__":
    main()
