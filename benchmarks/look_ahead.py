"""A GPU's decode steps, launched ahead of the tokens they need and not: whether that pays.

    python -m benchmarks.look_ahead                                  # some minutes
    python -m benchmarks.look_ahead --shapes 0.6b --batches 1 --json -

Models have random weights, made on the device. Streams of equal length decode side by side in a
core, with and without `look_ahead` in turns, greedily and as chats usually draw. A step is from one
call of the core to the next, medians of each round. `used` is the share of the steps launched ahead
that were what was asked for next; `ahead` that of all steps which were used so. On a CPU nothing is
launched ahead.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import readings
from benchmarks.gpu_decode import about, free, lacks_gpu, write_each
from benchmarks.random_model import random_model
from benchmarks.shapes import SHAPES
from helexa.engine.build import claim, describe
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.graphs import decode_graphs
from helexa.engine.memory import PoolSize
from helexa.engine.models.model import Model
from helexa.engine.outputs import Request
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "usual": {"temperature": 0.7, "top_k": 20, "top_p": 0.95},
}
WARM_UPS = 10
"""Steps that are not counted: kernels are compiled, steps are recorded."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Milliseconds a step without and with steps launched ahead, and what became of those."""

    shape: str
    format: str
    way: str
    batch: int
    context: int
    plain_ms: float
    ahead_ms: float
    speed: float
    used: float
    ahead: float
    same: bool
    rounds: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Round:
    """A median step in milliseconds; steps, those launched ahead, those used; all tokens."""

    ms: float
    steps: int
    launched: int
    used: int
    tokens: list[list[int]]


class Streams:
    """A model in a core with room for so many streams of so many tokens."""

    def __init__(self, model: Model, batch: int, context: int, steps: int) -> None:
        self.model, self.batch, self.context, self.steps = model, batch, context, steps
        self.config = EngineConfig(
            max_batch=batch, prefix_cache=False, prefill_chunk_tokens=2048, max_entries=0
        )
        pages = batch * (-(-(context + WARM_UPS + steps) // self.config.block_size) + 2)
        size = PoolSize(num_blocks=pages, budget_blocks=pages, budget_mb=0)
        self.spec = describe(model, size, self.config, GenerationDefaults(), frozenset())
        self.cache = claim(model, size, self.config)
        self.graphs = decode_graphs(model, self.cache)
        self.sampler = Sampler(self.spec.vocab_size, kernels=model.numerics.fused_ops)

    def round(self, way: str, *, ahead: bool) -> Round:
        """All streams from their prompts to their ends."""
        self.model.numerics = replace(self.model.numerics, look_ahead=ahead)
        runner = Runner(self.model, self.cache, graphs=self.graphs)
        core = EngineCore(runner, self.sampler, self.spec, self.config)
        tokens: dict[int, list[int]] = {}
        most = min(1000, self.spec.vocab_size)
        for seed in range(self.batch):
            params = SamplingParams(
                max_tokens=WARM_UPS + self.steps, seed=seed, ignore_eos=True, **WAYS[way]
            )
            prompt = tuple((7 * i + seed) % most for i in range(self.context))
            tokens[core.submit(Request(prompt, params))] = []
        began = []
        while not core.idle:
            now = time.perf_counter()
            outputs = core.step()
            for output in outputs:
                tokens[output.id] += output.token_ids
            if len(outputs) == self.batch:
                began.append(now)
        apart = [after - before for before, after in itertools.pairwise(began[WARM_UPS:])]
        counts = runner.steps_ahead
        ms = 1e3 * statistics.median(apart)
        return Round(ms, len(began), counts.launched, counts.used, list(tokens.values()))


def measured(streams: Streams, way: str, rounds: int) -> dict[str, Any]:
    """Without and with, in turns; once more in front of that for what is only done once."""
    streams.round(way, ahead=True)
    pairs = []
    for index in range(rounds):
        order = (False, True) if index % 2 else (True, False)
        found = {ahead: streams.round(way, ahead=ahead) for ahead in order}
        pairs.append((found[False], found[True]))
    with_it = [ahead for _, ahead in pairs]
    used = sum(one.used for one in with_it)
    return {
        "plain_ms": statistics.median(plain.ms for plain, _ in pairs),
        "ahead_ms": statistics.median(ahead.ms for ahead in with_it),
        "speed": statistics.median(plain.ms / ahead.ms for plain, ahead in pairs),
        "used": used / max(1, sum(one.launched for one in with_it)),
        "ahead": used / sum(one.steps for one in with_it),
        "same": all(plain.tokens == ahead.tokens for plain, ahead in pairs),
        "rounds": [(plain.ms, ahead.ms) for plain, ahead in pairs],
    }


def results(args: argparse.Namespace) -> Iterator[Reading]:
    """Every shape, batch and context, in both ways."""
    for shape in args.shapes:
        model = random_model(shape, torch.device(args.device), args.format)
        name = args.format or str(model.dtype).removeprefix("torch.")
        for batch, context in itertools.product(args.batches, args.contexts):
            streams = Streams(model, batch, context, args.steps)
            for way in WAYS:
                found = measured(streams, way, args.rounds)
                yield Reading(shape, name, way, batch, context, **found)
            del streams
        del model
        free(args.device)


def options() -> argparse.ArgumentParser:
    parser = readings.arguments(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["0.6b", "8b"])
    parser.add_argument("--format", choices=["Q4_K"], help="bfloat16 without it")
    parser.add_argument("--batches", type=readings.positive, nargs="+", default=[1, 8, 32])
    parser.add_argument("--contexts", type=readings.positive, nargs="+", default=[128])
    parser.add_argument("--steps", type=readings.at_least(2), default=100)
    parser.add_argument("--rounds", type=readings.positive, default=5)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that it works")
    return parser


def main() -> int:
    args = options().parse_args()
    if lacks_gpu(args.device):
        return 1
    write_each(args.json, about(torch.device(args.device)), results(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
