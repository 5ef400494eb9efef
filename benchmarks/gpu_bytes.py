"""How fast a GPU could decode, from the bytes and launches of a step; no GPU is needed.

    python -m benchmarks.gpu_bytes                                   # a minute
    python -m benchmarks.gpu_bytes --bandwidth 3.0 --launch-us 2 --json -
    python -m benchmarks.gpu_bytes --layer --shapes 8b               # every launch of one layer

A step of models of real shapes is run on tensors without contents, and its launches are counted:
what each reads and writes, beside what no engine can avoid, which is reading weights, keys and
values once and writing the new ones. What follows of time is arithmetic on assumptions: that a
GPU moves all bytes at the bandwidth at which it copies, that every launch of a recorded step costs
so much beside, every other one more, and that the host needs some time between two steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks import readings
from benchmarks.counted import Launch, counted
from benchmarks.gpu_decode import read_bytes
from benchmarks.random_model import BLOCKS, RandomCheckpoint
from benchmarks.shapes import SHAPES
from helexa.engine.checkpoint.checkpoint import Checkpoint
from helexa.engine.checkpoint.weights import Weights
from helexa.engine.device_batch import Layout, fields, table_pages
from helexa.engine.download import packed
from helexa.engine.graphs import recorded_batch
from helexa.engine.loading import resolve_numerics, with_triton
from helexa.engine.logit_changes import SampleRow
from helexa.engine.models.model import BLOCK_SIZE, Model
from helexa.engine.models.registry import MODELS
from helexa.engine.params import SamplingParams
from helexa.engine.quant.blocks.weight import BlockWeight
from helexa.engine.quant.on_device import with_kernels
from helexa.engine.read_ahead import Asked

NOWHERE = torch.device("meta")
GREEDY = SamplingParams(
    temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, repeat_last_n=64, seed=1
)
WAYS = {
    "the best": GREEDY,
    "temperature": replace(GREEDY, temperature=0.7),
    "top-k and top-p": replace(GREEDY, temperature=0.7, top_k=20, top_p=0.8),
    "top-p": replace(GREEDY, temperature=0.7, top_p=0.9),
}
"""How tokens may be chosen."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is not counted: bytes per second, and the cost of a launch and of a turn of the host.

    ``launch_us`` is that of a launch in a recorded step, ``own_us`` of one beside it.
    """

    bandwidth_tb_s: float
    launch_us: float
    own_us: float
    host_us: float
    processors: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A step: launches of the recorded part and behind it, bytes, and the times that follow."""

    shape: str
    format: str
    streams: int
    context: int
    launches: int
    launches_per_layer: float
    launches_to_choose: int
    moved_bytes: int
    unavoidable_bytes: int
    needless: float
    us: float
    of_copying: float
    of_copying_with_host: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Choosing tokens for some rows in one of WAYS, by kernels or by torch's operators."""

    way: str
    kernels: bool
    rows: int
    launches: int
    moved_bytes: int


class EmptyCheckpoint(RandomCheckpoint):
    """A checkpoint of a named shape of so many ``layers``, whose tensors have no contents."""

    def __init__(self, shape: str, blocks: str | None, layers: int | None = None) -> None:
        super().__init__(shape, torch.device("cpu"), blocks, layers)
        self.device = NOWHERE

    def tensor(self, name: str) -> Tensor:
        return torch.empty(self.shapes[name], dtype=torch.bfloat16, device=NOWHERE)

    def stored(self, name: str) -> Tensor:
        (rows, columns), (weights, nbytes) = self.shapes[name], BLOCKS[self.kind(name)]
        size = rows, columns // weights * nbytes
        return torch.empty(size, dtype=torch.uint8, device=NOWHERE)


def empty_model(shape: str, blocks: str | None, layers: int | None = None) -> Model:
    """A model of a named shape as a GPU would have it, with every kernel, but nowhere."""
    checkpoint = cast("Checkpoint", EmptyCheckpoint(shape, blocks, layers))
    numerics = with_triton(resolve_numerics("bfloat16", NOWHERE, True))
    model = MODELS[checkpoint.config.model_type](checkpoint.config, numerics)
    model.load(Weights(checkpoint, dtype=numerics.activations, device=NOWHERE))
    for module in model.modules():
        if isinstance(weight := getattr(module, "weight", None), BlockWeight):
            module.weight = with_kernels(weight)  # type: ignore[assignment]  # torch: only modules
    return model.to(NOWHERE).eval()


def step(model: Model, streams: int, context: int, processors: int) -> list[Launch]:
    """What a recorded decode step launches, each stream's token coming after ``context``."""
    pages = table_pages(context // BLOCK_SIZE + 1)
    layout = Layout(streams, streams, pages)
    memory = torch.empty(layout.numbers, dtype=torch.int32, device=NOWHERE)
    cache = model.new_cache(streams * pages, BLOCK_SIZE)
    with torch.no_grad(), counted([context + 1] * streams, processors) as launches:
        model.logits(model(recorded_batch(fields(memory, layout), BLOCK_SIZE), cache))
    return launches


def choosing(
    model: Model, streams: int, params: SamplingParams = GREEDY, *, kernels: bool = True
) -> list[Launch]:
    """What choosing a token for each stream launches, and how it comes to the host."""
    logits = torch.empty((streams, model.config.vocab_size), device=NOWHERE)
    with torch.no_grad(), counted([]) as launches:
        asked = Asked(logits, kernels=kernels)
        for i in range(streams):
            asked.ask(i, SampleRow(params))
        whole = packed([asked.compute()])
    return [*launches, Launch("to the host", whole.nbytes, 0)]


def unavoidable(model: Model, streams: int, context: int) -> int:
    """Bytes of weights, keys and values, new ones included; of an embedding, the rows needed."""
    kept = streams * (context + 2) * model.kv_bytes_per_token
    embedding = model.embed.table
    row = embedding.nbytes // len(embedding) if model.embed.weight is None else 0
    return read_bytes(model) + kept + streams * row


def count(shape: str, blocks: str | None, args: argparse.Namespace) -> Iterator[Counted]:
    """Every number of streams and context of one model."""
    model, single = empty_model(shape, blocks), empty_model(shape, blocks, 1)
    assumed, layers = assumptions(args), model.config.num_hidden_layers
    for streams in args.streams:
        choice = choosing(model, streams)
        for context in args.contexts:
            launches = step(model, streams, context, assumed.processors)
            one = step(single, streams, context, assumed.processors)
            moved = sum(launch.moved for launch in (*launches, *choice))
            needed = unavoidable(model, streams, context)
            copying = 1e6 * assumed.bandwidth_tb_s
            us = moved / copying
            us += len(launches) * assumed.launch_us + len(choice) * assumed.own_us
            whole = us + assumed.host_us
            yield Counted(
                shape=shape,
                format=blocks or "bf16",
                streams=streams,
                context=context,
                launches=len(launches),
                launches_per_layer=(len(launches) - len(one)) / (layers - 1),
                launches_to_choose=len(choice),
                moved_bytes=moved,
                unavoidable_bytes=needed,
                needless=moved / needed - 1,
                us=us,
                of_copying=needed / copying / us,
                of_copying_with_host=needed / copying / whole,
                tokens_per_s=1e6 * streams / whole,
            )


def choices(shape: str, rows: int) -> Iterator[Choice]:
    """Every way of choosing tokens."""
    model = empty_model(shape, None, 1)
    for way, params in WAYS.items():
        for kernels in (False, True):
            launches = choosing(model, rows, params, kernels=kernels)
            moved = sum(launch.moved for launch in launches)
            yield Choice(way, kernels, rows, len(launches), moved)


def choices_table(found: list[Choice]) -> str:
    """Torch's operators and kernels side by side."""
    lines = [
        f"| choosing for {found[0].rows} rows | launches by torch | MB | by kernels | MB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for torchs, ours in zip(found[::2], found[1::2], strict=True):
        both = [f"{one.launches} | {one.moved_bytes / 1e6:.0f}" for one in (torchs, ours)]
        lines.append(f"| {torchs.way} | {' | '.join(both)} |")
    return "\n".join(lines)


def table(rows: list[Counted]) -> str:
    """The counts for people to read."""
    heads = ("model", "streams", "context", "launches", "a layer", "to choose", "moved, GB")
    heads += ("needless", "µs", "of copying", "with the host", "tokens/s")
    lines = ["| " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for row in rows:
        cells = (
            f"{row.shape} {row.format}",
            f"{row.streams}",
            f"{row.context}",
            f"{row.launches}",
            f"{row.launches_per_layer:g}",
            f"{row.launches_to_choose}",
            f"{row.moved_bytes / 1e9:.3f}",
            f"{row.needless:.2%}",
            f"{row.us:.0f}",
            f"{row.of_copying:.0%}",
            f"{row.of_copying_with_host:.0%}",
            f"{row.tokens_per_s:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def one_layer(shape: str, blocks: str | None, args: argparse.Namespace) -> str:
    """Every launch of a model of one layer, in order."""
    lines, model = [], empty_model(shape, blocks, 1)
    for streams in args.streams:
        lines += [f"{shape} {blocks or 'bf16'}, one layer, {streams} streams:"]
        launches = step(model, streams, args.contexts[-1], args.processors)
        for launch in (*launches, *choosing(model, streams)):
            lines.append(f"  {launch.name:16} {launch.read:12,} read {launch.written:10,} written")
    return "\n".join(lines)


def assumptions(args: argparse.Namespace) -> Assumed:
    return Assumed(args.bandwidth, args.launch_us, args.own_us, args.host_us, args.processors)


def options() -> argparse.ArgumentParser:
    parser = readings.arguments(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["0.6b", "1.7b", "8b"])
    parser.add_argument("--formats", nargs="+", choices=["bf16", "Q4_K"], default=["bf16", "Q4_K"])
    parser.add_argument("--streams", type=readings.positive, nargs="+", default=[1, 32])
    parser.add_argument("--contexts", type=readings.positive, nargs="+", default=[128, 4096])
    parser.add_argument(
        "--bandwidth", type=readings.above_zero, default=4.0, help="TB/s, an assumption"
    )
    parser.add_argument(
        "--launch-us", type=readings.not_negative, default=1.0, help="in a recorded step, assumed"
    )
    parser.add_argument(
        "--own-us", type=readings.not_negative, default=2.0, help="of other launches, assumed"
    )
    parser.add_argument(
        "--host-us", type=readings.not_negative, default=100.0, help="between steps, assumed"
    )
    parser.add_argument(
        "--processors", type=readings.positive, default=132, help="of the GPU: an H200 has 132"
    )
    parser.add_argument("--layer", action="store_true", help="list the launches of one layer")
    return parser


def main() -> int:
    args = options().parse_args()
    models = [(shape, None if f == "bf16" else f) for shape in args.shapes for f in args.formats]
    if args.layer:
        print("\n".join(one_layer(*model, args) for model in models))
        return 0
    rows = [row for model in models for row in count(*model, args)]
    found: dict[str, Any] = {"assumed": asdict(assumptions(args)), "torch": torch.__version__}
    ways = list(choices(args.shapes[0], max(args.streams)))
    found |= {"steps": [asdict(row) for row in rows], "choosing": [asdict(way) for way in ways]}
    readings.say(args.json, f"{table(rows)}\n\n{choices_table(ways)}")
    readings.write(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
