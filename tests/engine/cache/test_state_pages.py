"""Snapshots of recurrent models: found, kept within limits, and never in the way of an answer."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helexa.engine.batch import Part
from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.copies import Copy
from helexa.engine.cache.snapshots import Snapshots
from helexa.engine.config import EngineConfig
from helexa.engine.core import EngineCore
from helexa.engine.drafting.drafter import Drafter
from helexa.engine.intake import CoreSpec, stable_cuts
from helexa.engine.outputs import EngineFacts, Request, StepOutput
from helexa.engine.params import GenerationDefaults, SamplingParams
from helexa.engine.sampling import Sampler
from tests.engine.paged import END, PRIME, VOCAB, Clock, PagedRunner

HEADER = 59
BATCH = 3


class StateRunner(PagedRunner):
    """Also keeps a number per slot, made of all tokens so far; logits depend on it as well."""

    def __init__(self, num_blocks: int, block_size: int, slots: int) -> None:
        super().__init__(num_blocks, block_size)
        self.states: list[int | None] = [None] * slots
        self.copied: list[Copy] = []

    def run(self, parts: Sequence[Part]) -> Tensor:
        slots = [part.state for part in parts]
        assert len(set(slots)) == len(slots), "two sequences have one state"
        wanted: list[int] = []
        for part in parts:
            state = 1 if part.context == 0 else self.states[part.state]
            assert state is not None, "a state is used that never was"
            passed = []
            for position, token in enumerate(part.tokens, part.context):
                state = hash((state, token, position)) % PRIME
                passed.append(state)
            self.states[part.state] = state
            wanted += passed[len(passed) - part.want_logits :]
        if self.faults and isinstance(self.faults[0], ValueError):
            raise self.faults.pop(0)  # when the states have gone on
        rows = super().run(parts)
        for row, state in zip(rows, wanted, strict=True):
            row.add_(torch.randn(VOCAB, generator=torch.Generator().manual_seed(state)))
        return rows

    def copy(self, copies: Sequence[Copy]) -> None:
        self.copied += copies
        for what, source, target in copies:
            if what == "state":
                assert self.states[source] is not None, "a snapshot of nothing"
                self.states[target] = self.states[source]
            else:
                size = self.block_size
                page = self.store[source * size : (source + 1) * size]
                self.store[target * size : (target + 1) * size] = page


class Bench:
    """A core over a `StateRunner`; ``answers`` by request id."""

    def __init__(
        self,
        *,
        blocks: int = 200,
        snapshots: int = 4,
        chunk: int = 16,
        guesses: Drafter | None = None,
    ) -> None:
        config = EngineConfig(
            max_batch=BATCH,
            block_size=4,
            prefill_chunk_tokens=chunk,
            prefix_cache=snapshots > 0,
            prefix_cache_mb=1,
            drafter="lookup" if guesses is not None else None,
        )
        facts = EngineFacts("cpu", "float32", 0, 0.0, 1, blocks * 4, 10_000, (END,), 1, 1.0)
        spec = CoreSpec(
            vocab_size=VOCAB,
            longest_tokens=10_000,
            num_blocks=blocks,
            budget_blocks=blocks,
            block_bytes=64,
            defaults=GenerationDefaults(),
            end_token_ids=frozenset({END}),
            facts=facts,
            state_bytes=1000,
            snapshots=snapshots,
            header_ids=frozenset({HEADER}),
        )
        self.runner = StateRunner(blocks, 4, BATCH + snapshots + config.spare_states)
        self.core = EngineCore(
            self.runner, Sampler(VOCAB), spec, config, clock=Clock(), drafter=guesses
        )
        self.answers: dict[int, list[StepOutput]] = {}

    def submit(self, prompt: list[int], **params: int) -> int:
        wanted = SamplingParams(**{"max_tokens": 12, "seed": 5, **params})  # type: ignore[arg-type]  # any field
        return self.core.submit(Request(tuple(prompt), wanted))

    def step(self) -> None:
        for output in self.core.step():
            self.answers.setdefault(output.id, []).append(output)

    def ask(self, prompt: list[int], **params: int) -> tuple[list[int], int]:
        """The answer to one request, and how many tokens of its prompt were not computed."""
        id = self.submit(prompt, **params)
        while not self.core.idle:
            self.step()
        return self.tokens(id), self.cached(id)

    def tokens(self, id: int) -> list[int]:
        return [token for output in self.answers[id] for token in output.token_ids]

    def cached(self, id: int) -> int:
        return next(o.cache.cached_tokens for o in self.answers[id] if o.cache is not None)


def words(count: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(HEADER) for _ in range(count)]


def chat(*messages: int) -> list[int]:
    """Messages of so many tokens, each behind a header, and the header of an answer."""
    tokens = [token for i, n in enumerate(messages) for token in (HEADER, *words(n, 100 * n + i))]
    return [*tokens, HEADER, 3]


@pytest.mark.parametrize(
    ("prompt", "cuts"),
    [
        ([HEADER, 1, 2, 3, HEADER, 4, 5, HEADER, 6, 7], (5, 8)),
        ([HEADER, 1, HEADER, 2], (3,)),
        ([HEADER, 1], (1,)),
        ([1, 2, 3], ()),
        ([1, 2, HEADER], ()),
        ([HEADER, 1, HEADER], ()),
        ([], ()),
    ],
)
def test_e043_stable_cuts(prompt: list[int], cuts: tuple[int, ...]) -> None:
    assert stable_cuts(tuple(prompt), frozenset({HEADER})) == cuts


def test_e043_the_last_header() -> None:
    prompt = [HEADER if at in (0, 4, 7) else at for at in range(10)]
    assert stable_cuts(tuple(prompt), frozenset({HEADER}))[-1] == 8


def test_e047_a_conversation_goes_on_from_its_last_header() -> None:
    bench, turn = Bench(), chat(9, 14)
    first, cached = bench.ask(turn)
    assert cached == 0
    longer = [*turn, *first, *chat(6)]
    answer, cached = bench.ask(longer)
    assert cached == len(turn) - 1
    assert answer == Bench(snapshots=0).ask(longer)[0]
    other = [*chat(9, 14)[:10], *chat(21)]  # the same first message, another second one
    answer, cached = bench.ask(other)
    assert cached == 11
    assert answer == Bench(snapshots=0).ask(other)[0]


def test_e045_the_same_prompt_again() -> None:
    bench, turn = Bench(), chat(9, 14)
    first, _ = bench.ask(turn)
    assert bench.ask(turn) == (first, len(turn) - 1)
    assert bench.ask(words(20, 1))[1] == 0
    stats = bench.core.status().prefix
    assert (stats.lookups, stats.hits, stats.hit_tokens) == (3, 1, len(turn) - 1)
    assert stats.last_miss is not None and stats.last_miss.reason == "new"


def test_e046_limits() -> None:
    bench = Bench(snapshots=2)
    turns = [chat(20 + n) for n in range(3)]
    for turn in turns:
        bench.ask(turn)
    assert bench.ask(turns[1])[1] > 0  # used again, so the other one goes
    bench.ask(turns[0])
    assert bench.ask(turns[1])[1] > 0
    assert bench.ask(turns[2])[1] == 0
    assert Bench(snapshots=0).ask(turns[0])[1] == 0


def test_a_snapshot_larger_than_the_budget_is_not_kept() -> None:
    pool = BlockPool(10, 4)
    kept = Snapshots(pool, [0, 1], budget_bytes=450, block_bytes=100, state_bytes=50)
    blocks = pool.allocate(5)
    assert kept.add(bytes(20 * 4), blocks) is None
    assert kept.add(bytes(16 * 4), blocks[:4]) is not None
    assert kept.nbytes == 450
    assert kept.add(bytes(4 * 4), blocks[:1]) is not None  # which the larger one makes way for
    assert (len(kept), kept.nbytes) == (1, 150)
    pool.release(blocks)
    assert (pool.idle_count, pool.free_count) == (1, 9)
    kept.clear()
    assert pool.free_count == 10


@pytest.mark.parametrize("blocks", [15, 60])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_e050_e052_load_does_not_show(blocks: int, chunk: int) -> None:
    """Conversations in parallel, leavers, too few pages: every answer is as it is alone."""
    chance = random.Random(blocks + chunk)
    prompts = [chat(*[chance.randrange(1, 12) for _ in range(1 + n % 3)]) for n in range(24)]
    bench, asked = Bench(blocks=blocks, chunk=chunk), {}
    for number, prompt in enumerate(prompts):
        asked[bench.submit(prompt, seed=number)] = number
        for _ in range(chance.randrange(5)):
            bench.step()
        if number % 7 == 6:
            leaver = chance.choice(list(asked))
            bench.core.abort(leaver)
            del asked[leaver]
    while not bench.core.idle:
        bench.step()
    for id, number in asked.items():
        alone = Bench(snapshots=0).ask(prompts[number], seed=number)[0]
        assert bench.tokens(id) == alone
    status = bench.core.status()
    assert status.prefix.hits > 0 and status.kv_used_mb == 0
    assert (status.preemptions > 0) == (blocks == 15)


def test_a_failed_step_leaves_nothing_behind() -> None:
    """The states may have gone on by then: whoever is not blamed starts over."""
    bench = Bench(chunk=64)
    ids = [bench.submit(chat(5 + n), seed=n) for n in range(2)]
    for _ in range(4):
        bench.step()
    late = bench.submit(chat(30))
    bench.runner.faults.append(ValueError("it broke"))
    while not bench.core.idle:
        bench.step()
    for n, id in enumerate(ids):
        assert bench.tokens(id) == Bench(snapshots=0).ask(chat(5 + n), seed=n)[0]
    assert bench.answers[late][-1].error is not None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pages_are_accounted_for(data: st.DataObject) -> None:
    """Whatever is kept, found and given up: each page has as many holders as it should."""
    pool = BlockPool(12, 2)
    kept = Snapshots(pool, range(3), budget_bytes=1000, block_bytes=60, state_bytes=100)
    for _ in range(data.draw(st.integers(1, 15))):
        tokens = array("i", data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=8)))
        found = kept.find(tokens.tobytes())
        if found is not None:
            assert len(found.tokens) < 4 * len(tokens)
            assert tokens.tobytes().startswith(found.tokens)
        shared = list(found.blocks[: found.length // 2]) if found is not None else []
        pool.retain(shared)
        wanted = -(-len(tokens) // 2) - len(shared)
        kept.evict(wanted)
        blocks = shared + pool.allocate(wanted)
        kept.add(tokens.tobytes(), blocks)
        assert kept.nbytes <= 1000 and len(kept) <= 3
        pool.release(blocks)
        assert pool.held_count == 0
    kept.clear()
    assert pool.free_count == 12
