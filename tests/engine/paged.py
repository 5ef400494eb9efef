"""A stand-in for a model and its cache: a token depends on all before it, read through pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helexa.engine.batch import Part
from helexa.engine.cache.copies import Copy
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.drafting.drafter import Drafter
from helexa.engine.intake import CoreSpec
from helexa.engine.outputs import EngineFacts, Request, StepOutput
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.sampling import Sampler

VOCAB = 61
END = 60
PRIME = (1 << 61) - 1


class PagedRunner:
    """Keeps one number per slot, made of the token and the number before it.

    Logits depend on all numbers of a sequence, read back through its block table: a page that was
    reused wrongly, written twice or not written changes what comes out.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.store: list[int | None] = [None] * (num_blocks * block_size)
        self.steps: list[list[tuple[int, int]]] = []  # per part: (new tokens, tokens before)
        self.faults: list[BaseException] = []
        self.model_s = 0.0005  # half a reading of the clock below
        self.sick: set[int] = set()  # a sequence with one of these tokens gets NaN
        self.hidden = torch.empty(0, VOCAB)  # it has nothing in front of its logits
        self.habit = 0.0  # how much likelier a token is that `follower` names

    def run(self, parts: Sequence[Part]) -> Tensor:
        if self.faults:
            raise self.faults.pop(0)
        self.steps.append([(len(part.tokens), part.context) for part in parts])
        written: set[int] = set()
        for tokens, context, blocks, _, _ in parts:
            for position, token in enumerate(tokens, context):
                slot = self.slot(blocks, position)
                assert slot not in written, "two sequences write to one slot"
                written.add(slot)
                before = self.read(blocks, position - 1) if position else 1
                self.store[slot] = hash((before, token, position)) % PRIME
        rows = [
            self.logits(tokens[: len(tokens) - back], blocks, context + len(tokens) - back)
            for tokens, context, blocks, wanted, _ in parts
            for back in reversed(range(int(wanted)))
        ]
        self.hidden = torch.stack(rows) if rows else torch.empty(0, VOCAB)
        return self.hidden

    def copy(self, copies: Sequence[Copy]) -> None:
        raise AssertionError("pages are shared here, not copied")

    def slot(self, blocks: Sequence[int], position: int) -> int:
        return blocks[position // self.block_size] * self.block_size + position % self.block_size

    def read(self, blocks: Sequence[int], position: int) -> int:
        value = self.store[self.slot(blocks, position)]
        assert value is not None, "a page is read that was never written"
        return value

    def logits(self, tokens: Sequence[int], blocks: Sequence[int], total: int) -> Tensor:
        state = hash(tuple(self.read(blocks, position) for position in range(total)))
        noise = torch.Generator().manual_seed(state % PRIME)
        row = torch.randn(VOCAB, generator=noise) * 2
        row[END] -= 6  # answers end now and then
        row[follower(tokens[-1])] += self.habit
        if self.sick.intersection(tokens):
            row[3] = torch.nan
        return row


def follower(token: int) -> int:
    """What comes after a token by habit: circles of six tokens, and one of two."""
    return (3 * token + 1) % 14


class Clock:
    """Seconds that pass only when asked: one millisecond per reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class Bench:
    """A core over a paged stand-in, and everything it has put out so far."""

    def __init__(
        self,
        blocks: int = 64,
        budget: int | None = None,
        longest: int = 256,
        guesses: Drafter | None = None,
        clock: Callable[[], float] | None = None,
        **config: object,
    ) -> None:
        self.config = EngineConfig(**{"block_size": 4, **config})  # type: ignore[arg-type]  # any field
        size = self.config.block_size
        self.runner = PagedRunner(blocks, size)
        budget = blocks if budget is None else budget
        spec = CoreSpec(
            vocab_size=VOCAB,
            longest_tokens=longest,
            num_blocks=blocks,
            budget_blocks=budget,
            block_bytes=1 << 18,
            defaults=GenerationDefaults(),
            end_token_ids=frozenset({END}),
            facts=EngineFacts(
                *("cpu", "float32", 0, 0.0, (1 << 18) // size, blocks * size, longest),
                kv_budget_mb=budget // 4,
            ),
        )
        self.core = EngineCore(
            self.runner, Sampler(VOCAB), spec, self.config, clock or Clock(), drafter=guesses
        )
        self.outputs: dict[int, list[StepOutput]] = {}

    def submit(self, prompt: Sequence[int], cap: int | None = None, **params: object) -> int:
        resume = tuple(params.pop("generated", ()))  # type: ignore[call-overload]  # a tuple of ids
        sampling = SamplingParams(**{"temperature": 0, **params})  # type: ignore[arg-type]  # any field
        request = Request(tuple(prompt), sampling, cap=cap, generated=resume)
        request_id = self.core.submit(request)
        self.outputs[request_id] = []
        return request_id

    def step(self) -> list[StepOutput]:
        outputs = self.core.step()
        for output in outputs:
            self.outputs[output.id].append(output)
        return outputs

    def run(self, limit: int = 2000) -> None:
        """Step until nothing is left to do."""
        for _ in range(limit):
            if self.core.idle:
                return
            self.step()
        raise AssertionError(f"not idle after {limit} steps")

    def tokens(self, request_id: int) -> list[int]:
        return [token for output in self.outputs[request_id] for token in output.token_ids]

    def last(self, request_id: int) -> StepOutput:
        return self.outputs[request_id][-1]


def alone(prompt: Sequence[int], **params: object) -> tuple[list[int], str | None]:
    """Tokens and finish reason of a request that has a large core to itself, without a cache."""
    bench = Bench(blocks=128, prefix_cache=False)
    request_id = bench.submit(prompt, **params)
    bench.run()
    return bench.tokens(request_id), bench.last(request_id).finish_reason
