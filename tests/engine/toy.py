"""A model of a few numbers whose steps can be recorded, and cores over it.

Each row is computed by itself, so that it has the same bits in any batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from helexa.engine.batch import Batch, Computed, Part, build_batch
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.drafting.drafter import Drafter
from helexa.engine.graphs import DecodeGraphs
from helexa.engine.intake import CoreSpec
from helexa.engine.outputs import EngineFacts, Request, StepOutput
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.runner import Runner
from helexa.engine.sampling import Sampler
from tests.engine.paged import Clock

PAGE = 4
WIDTH = 8
HOST = torch.device("cpu")


class Toy:
    """Logits are those of the sum of all that its tokens left in the cache."""

    def __init__(self, vocab: int, *, look_ahead: bool) -> None:
        noise = torch.Generator().manual_seed(vocab)
        self.device = HOST
        self.numerics = SimpleNamespace(look_ahead=look_ahead)
        self._tokens = torch.randn(vocab, WIDTH, generator=noise)
        self._out = torch.randn(WIDTH, vocab, generator=noise) * 1.5

    def batch(self, parts: Sequence[Part], size: int) -> Batch:
        return build_batch(parts, size, HOST)

    def __call__(self, batch: Batch, cache: Any) -> Tensor:
        slots = batch.slots
        if isinstance(slots, slice):
            slots = torch.arange(slots.start, slots.stop)
        made = torch.sin(self._tokens[batch.token_ids] * (batch.positions[:, None] + 1))
        cache.memory[slots[slots >= 0]] = made[slots >= 0]
        rows = [cache.memory[seen].sum(0) for seen in self._seen(batch, cache.block_size)]
        return torch.stack(rows)

    def logits(self, hidden: Tensor) -> Tensor:
        rows = [row @ self._out for row in hidden]
        return torch.stack(rows) if rows else hidden.new_empty(0, self._out.shape[1])

    def _seen(self, batch: Batch, size: int) -> list[Tensor]:
        """The slots of each row's tokens, its own included."""
        if batch.pages is not None:
            tables = batch.pages.tables.long()
            slots = (tables[:, :, None] * size + torch.arange(size)).flatten(1)
            lengths = batch.pages.lengths.tolist()
            return [row[:length] for row, length in zip(slots, lengths, strict=True)]
        found = []
        for span in batch.spans:
            where = span.slots
            if isinstance(where, slice):
                where = torch.arange(where.start, where.stop)
            found += [where[: span.context + at + 1] for at in range(span.length)]
        return found


class Replays:
    """Does recorded work again; tells ``heard`` of it, and overwrites results even before that."""

    def __init__(self, heard: list[str] | None = None) -> None:
        self.heard = [] if heard is None else heard

    def record(self, work: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        result = Computed(*(made.clone() for made in work()))

        def replay() -> None:
            self.heard.append("replay")
            for kept, made in zip(result, work(), strict=True):
                kept.copy_(made)

        return replay, result


class Cores:
    """A core over the toy, and all that it puts out."""

    def __init__(
        self,
        vocab: int = 256,
        *,
        look_ahead: bool = True,
        blocks: int = 200,
        drafter: Drafter | None = None,
        kernels: bool = False,
        recorder: Replays | None = None,
        **config: Any,
    ) -> None:
        self.config = EngineConfig(**{"block_size": PAGE, **config})
        model: Any = Toy(vocab, look_ahead=look_ahead)
        cache: Any = SimpleNamespace(
            block_size=PAGE, memory=torch.full((blocks * PAGE, WIDTH), torch.nan), states=None
        )
        graphs = DecodeGraphs(model, cache, recorder or Replays())
        self.runner = Runner(model, cache, graphs=graphs)
        spec = CoreSpec(
            vocab_size=vocab,
            longest_tokens=200,
            num_blocks=blocks,
            budget_blocks=blocks,
            block_bytes=1 << 18,
            defaults=GenerationDefaults(),
            end_token_ids=frozenset({vocab - 1}),
            facts=EngineFacts(
                *("cpu", "float32", 0, 0.0, (1 << 18) // PAGE, blocks * PAGE, 200),
                kv_budget_mb=blocks // 4,
            ),
        )
        sampler = Sampler(vocab, reads_ahead=True, kernels=kernels)
        self.core = EngineCore(self.runner, sampler, spec, self.config, Clock(), drafter=drafter)
        self.outputs: dict[int, list[StepOutput]] = {}

    def submit(self, prompt: Sequence[int], **params: Any) -> int:
        request_id = self.core.submit(Request(tuple(prompt), SamplingParams(**params)))
        self.outputs[request_id] = []
        return request_id

    def step(self) -> None:
        for output in self.core.step():
            assert output.error is None
            self.outputs[output.id].append(output)

    def run(self) -> None:
        while not self.core.idle:
            self.step()

    def said(self, request_id: int) -> tuple[list[int], list[Any], str | None]:
        """Tokens, logprobs and why it ended."""
        outputs = self.outputs[request_id]
        return (
            [token for output in outputs for token in output.token_ids],
            [one for output in outputs for one in output.logprobs],
            outputs[-1].finish_reason if outputs else None,
        )


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "usual": {"temperature": 0.7, "top_k": 20, "top_p": 0.95},
    "top-k and min-p": {"temperature": 1.3, "top_k": 5, "top_p": 1.0, "min_p": 0.05},
    "top-p": {"temperature": 0.9, "top_k": 0, "top_p": 0.9},
    "open": {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    "penalties": {"temperature": 0.8, "top_k": 30, "repetition_penalty": 1.2, "min_tokens": 4},
    "bias": {"temperature": 0, "logit_bias": {3: 2.0, 5: -1.0}, "presence_penalty": 0.4},
}
"""How tokens may be asked for."""


def load(cores: Cores, requests: int, seed: int = 1) -> dict[int, bool]:
    """Requests of all ways that come in the midst of others, some of which are aborted.

    → each of them, and whether it came to its end.
    """
    chance = random.Random(seed)
    ended: dict[int, bool] = {}
    for number in range(requests):
        common = [3, 1, 4, 1, 5, 9, 2, 6, 5][: chance.randrange(10)]
        prompt = common + [chance.randrange(100) for _ in range(chance.randint(1, 12))]
        params = {"max_tokens": chance.randint(4, 25), "seed": number}
        params |= WAYS[chance.choice(list(WAYS))]
        params["logprobs"] = chance.choice([None, None, 0, 3])
        params["stop_token_ids"] = [chance.randrange(100) for _ in range(8)]
        ended[cores.submit(prompt, **params)] = True
        for _ in range(chance.randrange(8)):
            cores.step()
        if chance.random() < 0.2:
            gone = chance.choice(list(ended))
            ended[gone] = ended[gone] and bool(cores.said(gone)[2])
            cores.core.abort(gone)
    cores.run()
    return ended
