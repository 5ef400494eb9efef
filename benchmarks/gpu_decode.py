"""Decode and prefill on a GPU, beside transformers and the speed at which it copies memory.

    python -m benchmarks.gpu_decode                                  # all shapes, some minutes
    python -m benchmarks.gpu_decode --shapes 0.6b --json -
    python -m benchmarks.gpu_decode --quick                          # in some four minutes

Models have random weights, made on the device. A decode step is what the engine does for a token:
lay the step out, run the model, choose greedily, learn the choice on the host. It cannot take less
time than reading the weights, keys and values once; `of copying` is those bytes per second, as a
share of the bytes that copying a large tensor reads and writes per second in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch

import helexa
from benchmarks import readings
from benchmarks.overhead import overhead_per_step
from benchmarks.random_model import random_model
from benchmarks.shapes import SHAPES, config
from helexa.engine.batch import Part
from helexa.engine.graphs import decode_graphs
from helexa.engine.models.model import Model
from helexa.engine.params import SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler, SampleRow

GREEDY = SamplingParams(
    temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, repeat_last_n=64
)
PAGE = 16
CHUNK = 2048
COPY_BYTES = 2**31
WARM_UPS, STEPS, PREFILLS = 5, 50, 3


@dataclass(frozen=True, slots=True)
class Reading:
    """One row: medians of host time, to the moment at which the host knows the tokens."""

    engine: str
    shape: str
    format: str
    work: str
    batch: int
    context: int
    ms: float
    tokens_per_s: float
    of_copying: float | None = None


def taken_s(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, nbytes: int = COPY_BYTES) -> float:
    """Bytes per second that copying a tensor reads and writes, the best of some copies."""
    source = torch.zeros(nbytes // 2, dtype=torch.int16, device=device)
    target = torch.empty_like(source)
    best = min(taken_s(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * source.nbytes / best


class Engine:
    """A model that runs ``batch`` sequences of ``context`` tokens."""

    def __init__(self, model: Model, batch: int, context: int) -> None:
        self.device, self.batch, self.context = model.device, batch, context
        pages = -(-(context + WARM_UPS + STEPS + 1) // PAGE)
        cache = model.new_cache(batch * pages, PAGE, states=batch)
        cache.memory.normal_()
        order = torch.randperm(batch * pages, generator=torch.Generator().manual_seed(0))
        self.blocks = order.view(batch, pages).tolist()
        self.runner = Runner(model, cache, graphs=decode_graphs(model, cache))
        kernels = model.numerics.fused_ops
        self.sampler = Sampler(model.config.vocab_size, kernels=kernels)
        self.rows = [SampleRow(GREEDY)] * batch

    def decode(self, at: int) -> None:
        """One token of each sequence, after ``at`` others."""
        parts = [Part([at % 1000], at, blocks, True, s) for s, blocks in enumerate(self.blocks)]
        self.sampler.sample(self.runner.run(parts), self.rows)

    def prefill(self) -> None:
        """All prompts, one after the other, in chunks."""
        ids = list(range(self.context))
        for s, blocks in enumerate(self.blocks):
            for start in range(0, self.context, CHUNK):
                end = min(start + CHUNK, self.context)
                part = Part(ids[start:end], start, blocks, end == self.context, s)
                logits = self.runner.run([part])
        self.sampler.sample(logits, self.rows[:1])

    def decode_s(self) -> float:
        """The median of a step, the first of which record it."""
        steps = range(self.context, self.context + WARM_UPS + STEPS)
        taken = [taken_s(lambda at=at: self.decode(at), self.device) for at in steps]
        return statistics.median(taken[WARM_UPS:])

    def prefill_s(self) -> float:
        taken = [taken_s(self.prefill, self.device) for _ in range(PREFILLS + 1)]
        return statistics.median(taken[1:])


def ours(
    shape: str, blocks: str | None, args: argparse.Namespace, copied: float
) -> Iterator[Reading]:
    """Every batch and context of one model."""
    device = torch.device(args.device)
    model = random_model(shape, device, blocks)
    name = blocks or str(model.dtype).removeprefix("torch.")
    for batch in args.batches:
        for context in args.contexts:
            engine = Engine(model, batch, context)
            where = ("helexa", shape, name)
            decode = engine.decode_s()
            kept = batch * (context + WARM_UPS + STEPS // 2) * model.kv_bytes_per_token
            share = (read_bytes(model) + kept) / decode / copied
            yield Reading(*where, "decode", batch, context, 1e3 * decode, batch / decode, share)
            if batch == 1 or not args.quick:
                prefill = engine.prefill_s()
                speed = batch * context / prefill
                yield Reading(*where, "prefill", batch, context, 1e3 * prefill, speed)
            del engine


def read_bytes(model: Model) -> int:
    """Bytes of weights that a step must read: all but an embedding that is not multiplied with."""
    looked_up = model.embed.nbytes if model.embed.weight is None else 0
    return model.nbytes - looked_up


def peer(shape: str, args: argparse.Namespace) -> Iterator[Reading]:
    """Transformers' decode step of one stream, its usual way."""
    from transformers import AutoConfig, AutoModelForCausalLM

    raw = dict(config(shape, torch.bfloat16))
    raw.pop("architectures")
    kind = str(raw.pop("model_type"))
    device = torch.device(args.device)
    with device:
        made = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **raw), dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
    for context in args.contexts:
        with torch.inference_mode():
            seen = made(torch.arange(context, device=device)[None], use_cache=True)
            cache = seen.past_key_values

            def step(cache: Any = cache) -> None:
                token = torch.tensor([[5]], device=device)
                out = made(token, past_key_values=cache, use_cache=True)
                out.logits[0, -1].argmax().item()

            taken = [taken_s(step, device) for _ in range(WARM_UPS + STEPS)]
        taken_median = statistics.median(taken[WARM_UPS:])
        where = ("transformers", shape, "bfloat16", "decode", 1, context)
        yield Reading(*where, 1e3 * taken_median, 1 / taken_median)


def measured(args: argparse.Namespace, copied: float) -> Iterator[Reading]:
    for shape in args.shapes:
        for format in args.formats:
            if args.quick and format != "bf16" and shape != args.shapes[-1]:
                continue
            yield from ours(shape, None if format == "bf16" else format, args, copied)
            free(args.device)
        if find_spec("transformers") and "transformers" not in args.without:
            yield from peer(shape, args)
            free(args.device)


def free(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def about(device: torch.device) -> dict[str, Any]:
    """What a figure is worth nothing without."""
    there = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {**readings.about(), "device": there, "helexa": helexa.__version__}


def options() -> argparse.ArgumentParser:
    parser = readings.arguments(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["0.6b", "1.7b", "8b"])
    parser.add_argument("--formats", nargs="+", choices=["bf16", "Q4_K"], default=["bf16", "Q4_K"])
    parser.add_argument("--batches", type=readings.positive, nargs="+", default=[1, 32])
    parser.add_argument("--contexts", type=readings.positive, nargs="+", default=[128, 4096])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that it works")
    parser.add_argument("--without", nargs="*", choices=["transformers"], default=[])
    parser.add_argument(
        "--quick", action="store_true", help="blocks for the last shape alone, prompts one by one"
    )
    return parser


def main() -> int:
    args = options().parse_args()
    if lacks_gpu(args.device):
        return 1
    device = torch.device(args.device)
    copied = copy_bandwidth(device, COPY_BYTES if device.type == "cuda" else 2**24)
    overhead = {str(rows): overhead_per_step(rows) for rows in (1, 32)}
    found = {**about(device), "copy_gb_s": copied / 1e9, "overhead_ms": overhead}
    write_each(args.json, found, measured(args, copied))
    return 0


def lacks_gpu(device: str) -> bool:
    """Whether a GPU is wanted and there is none, which is told."""
    lacking = device.startswith("cuda") and not torch.cuda.is_available()
    if lacking:
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
    return lacking


def write_each(to: str | None, found: dict[str, Any], taken: Iterator[Any]) -> None:
    """Tell readings as they come; a file is whole after each, for whoever runs out of time."""
    found["readings"] = whole = []
    for reading in taken:
        whole.append(asdict(reading))
        print(json.dumps(whole[-1]), file=sys.stderr)
        if to not in (None, readings.STDOUT):
            readings.write(to, found)
    if to in (None, readings.STDOUT):
        readings.write(readings.STDOUT, found)


if __name__ == "__main__":
    sys.exit(main())
