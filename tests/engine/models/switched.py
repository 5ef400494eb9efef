"""One small model of every architecture, and all that it says with or without its fast paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch
from torch import Tensor

from helexa.engine.build import claim, describe
from helexa.engine.cache.kv import KVCache
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.graphs import DecodeGraphs
from helexa.engine.memory import PoolSize
from helexa.engine.models.model import Model
from helexa.engine.outputs import Request
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.quant.blocks.types import BLOCK_TYPES
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler
from tests.engine.drafting.knowing import Confident, Tick
from tests.engine.models.families import Family, Reference, cosine, hybrid

VOCAB = 32
"""So few that pairs of tokens come again, which drafts need."""
COUNT = 24
FEW: dict[str, Any] = {"vocab_size": VOCAB, "num_hidden_layers": 2, "initializer_range": 0.2}
BOTH: dict[str, Any] = {**FEW, "layer_types": ["linear_attention", "full_attention"]}
ARCHITECTURES = {
    "llama": Family("llama", "llama", FEW, seed=93),
    "qwen3": Family("qwen3", fields=FEW, seed=94),
    "qwen3_moe": Family("qwen3_moe", "qwen3_moe", FEW, seed=96),
    "qwen3_5": hybrid("qwen3_5", **BOTH),
    "qwen3_5_moe": hybrid("qwen3_5_moe", "qwen3_5_moe", **BOTH),
    "qwen3_next": hybrid("qwen3_next", "qwen3_next", **BOTH),
}
"""Their seeds are such that rounding chooses neither tokens nor experts (see `clear`)."""

RECURRENT = {name for name, family in ARCHITECTURES.items() if "layer_types" in family.fields}
ROUTED = {name for name in ARCHITECTURES if name.endswith(("moe", "next"))}
TOLERANCE = {name: 1e-3 if name in RECURRENT else 1e-4 for name in ARCHITECTURES}
"""Of logits in float32."""
CLEAR = 1e-3
"""By how much a token is to be ahead of the next best one, and ten times an expert's score."""
CLEAR_IN_16_BITS = 0.02
ON_DEVICES = ("fused_ops", "fused_rows", "cuda_graphs", "look_ahead")
"""The switches that only a GPU's models look at."""
SIZE = PoolSize(num_blocks=150, budget_blocks=100, budget_mb=0, snapshots=4)
HEADERS = frozenset(range(8))
"""Ids that may begin a message: recurrent models are continued behind them."""
LINEAR = re.compile(r"(?:lm_head|_proj|in_proj_(?:qkv|z|qkvz))(?:\.weight)?$")
"""The matrices that are quantised."""


def looks_at(name: str) -> tuple[str, ...]:
    """The switches of kernels that a model of this architecture has anywhere."""
    delta = ("gdn_chunked", "gdn_fused") if name in RECURRENT else ()
    experts = ("moe_fused",) if name in ROUTED else ()
    return ("flash_attn", "flash_decode", *delta, *experts)


def prompts(lengths: Sequence[int] = (5, 40, 70)) -> list[list[int]]:
    """Three; the last, which waits for one of the others, begins as the second does."""
    texts = [[(7 * i * i + 5 * i + 3 * n) % VOCAB for i in range(k)] for n, k in enumerate(lengths)]
    shared = lengths[1] - 4
    return [*texts[:2], texts[1][:shared] + texts[2][shared:]]


class Said(NamedTuple):
    """Answers to several prompts, and what the core did for them."""

    tokens: list[list[int]]
    cached: int
    drafted: int
    rows: int  # sequences of the largest step
    ahead: int  # steps that were launched before their tokens were known


@dataclass(frozen=True)
class Expected:
    """What the reference says to these prompts: each prompt has its answer behind it."""

    reference: Reference
    prompts: list[list[int]]
    count: int = COUNT

    @property
    def folder(self) -> Path:
        """The checkpoint, whose weights are as they were drawn."""
        return self.reference.folder

    @cached_property
    def answers(self) -> list[list[int]]:
        """The greedy continuation of each prompt."""
        return [self.reference.greedy(prompt, self.count) for prompt in self.prompts]

    @cached_property
    def logits(self) -> Tensor:
        """[T, V] of the last prompt."""
        return self.reference.logits(self.prompts[-1])

    def stays_close(self, found: Tensor) -> bool:
        """Whether logits in 16 bits are near these, where rounding cannot choose the experts.

        Elsewhere they may be those of another expert, which is not wrong.
        """
        clear = self.reference.gaps(self.prompts[-1]) > CLEAR_IN_16_BITS
        assert clear.float().mean() > 0.75
        return cosine(found[clear], self.logits[clear]) > 0.99

    def clear(self) -> tuple[float, float]:
        """How far each token is ahead of the next best one at least, and each expert."""
        ahead, chosen = [], []
        for prompt, answer in zip(self.prompts, self.answers, strict=True):
            ids = prompt + answer
            best = self.reference.logits(ids)[len(prompt) - 1 : -1].topk(2).values
            ahead.append((best[:, 0] - best[:, 1]).min().item())
            chosen.append(self.reference.smallest_gap(ids))
        return min(ahead), min(chosen)


def quantised(reference: Reference, format: str) -> Reference:
    """The reference with the numbers that its matrices have in a format, decoded by gguf."""
    type = BLOCK_TYPES[format.upper()]
    with torch.no_grad():
        for name, parameter in reference.model.named_parameters():
            if LINEAR.search(name):
                blocks = type.rows(parameter.flatten(0, -2).contiguous()).numpy()
                matrix = gguf.dequantize(blocks, gguf.GGMLQuantizationType[type.name])
                parameter.copy_(torch.from_numpy(matrix).view_as(parameter))
    return reference


def logits(model: Model, ids: list[int], stops: Sequence[int]) -> Tensor:
    """[T, V] at all positions, computed up to each of the ``stops``, then one by one."""
    cache, found, start = model.new_cache(tokens=len(ids)), [], 0
    for stop in (*stops, *range(stops[-1] + 1, len(ids) + 1)):
        found.append(model.compute_logits(ids[start:stop], cache, context=start))
        start = stop
    return torch.cat(found)


def says(
    model: Model,
    asked: list[list[int]],
    *disabled: str,
    drafts: bool = True,
    graphs: Callable[[KVCache], DecodeGraphs] | None = None,
    count: int = COUNT,
) -> Said:
    """What a core answers, greedily, to prompts of which two may run at a time."""
    config = EngineConfig(
        block_size=4,
        max_batch=2,
        prefill_chunk_tokens=24,
        drafter="lookup" if drafts else None,
        disabled=frozenset(disabled),
    )
    spec = describe(model, SIZE, config, GenerationDefaults(), frozenset())
    cache = claim(model, SIZE, config)
    runner = Runner(model, cache, graphs=graphs(cache) if graphs is not None else None)
    spec = replace(spec, header_ids=HEADERS)
    drafter = Confident() if drafts else None
    sampler = Sampler(spec.vocab_size, reads_ahead=graphs is not None)
    core = EngineCore(runner, sampler, spec, config, Tick(), drafter=drafter)
    params = SamplingParams(max_tokens=count, temperature=0, repetition_penalty=1, ignore_eos=True)
    tokens: dict[int, list[int]] = {core.submit(Request(tuple(p), params)): [] for p in asked}
    cached = rows = 0
    while not core.idle:
        outputs = core.step()
        rows = max(rows, core.status().running)
        for output in outputs:
            assert output.error is None
            tokens[output.id] += output.token_ids
            cached += output.cached_tokens or 0
    drafted, ahead = core.status().drafts.drafted, runner.steps_ahead.used
    return Said(list(tokens.values()), cached, drafted, rows, ahead)
