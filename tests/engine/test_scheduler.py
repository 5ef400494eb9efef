"""The scheduler under any order of events keeps its books right and lets everyone finish."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.pages import Pages
from helexa.engine.cache.prefix import ROOT
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.scheduler import Part, Scheduler
from helexa.engine.sequence import Sequence

PAGE = 2
PARAMS = resolve(SamplingParams(seed=1), GenerationDefaults(), 8)

Content = tuple[int, ...]


def sequence(number: int, prompt: tuple[int, ...], max_new: int) -> Sequence:
    return Sequence.of(number, prompt, (), PARAMS, max_new=max_new, ends=frozenset())


def scheduler(
    blocks: int, *, budget: int | None = None, batch: int = 4, chunk: int = 8
) -> Scheduler:
    pages = Pages(BlockPool(blocks, PAGE), blocks if budget is None else budget)
    return Scheduler(pages, max_batch=batch, chunk_tokens=chunk)


class Serving(RuleBasedStateMachine):
    """Arrivals, steps, aborts and ends in any order, over a pool of a few pages.

    ``slots`` stands for the cache: it holds the whole history of the token that was written there,
    so a page with the wrong content is seen when it is read.
    """

    sequences = Bundle("sequences")

    @initialize(
        budget=st.integers(3, 9),
        spare=st.integers(0, 4),
        batch=st.integers(1, 4),
        chunk=st.integers(1, 9),
        reuse=st.booleans(),
    )
    def start(self, budget: int, spare: int, batch: int, chunk: int, reuse: bool) -> None:
        pool = BlockPool(budget + spare, PAGE)
        self.pages = Pages(pool, budget, reuse=reuse)
        self.scheduler = Scheduler(self.pages, max_batch=batch, chunk_tokens=chunk)
        self.slots: list[Content] = [()] * (pool.num_blocks * PAGE)
        self.open: list[Sequence] = []
        self.number = 0

    @rule(
        target=sequences,
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=14),
        max_new=st.integers(1, 10),
    )
    def arrive(self, prompt: list[int], max_new: int) -> object:
        room = self.pages.budget_blocks * PAGE - len(prompt)
        if room < 1:
            return multiple()
        seq = sequence(self.number, tuple(prompt), min(max_new, room))
        self.number += 1
        self.open.append(seq)
        self.scheduler.add(seq)
        return seq

    @rule(seq=consumes(sequences), untrusted=st.booleans())
    def abort(self, seq: Sequence, untrusted: bool) -> None:
        if seq in self.open:
            self.open.remove(seq)
            self.scheduler.remove(seq, forget=untrusted)

    @rule(count=st.integers(1, 8))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        oldest = self.open[0] if self.open else None
        before = len(oldest.tokens) + oldest.computed if oldest else 0
        parts = self.scheduler.plan()
        assert bool(parts) == bool(self.open)
        self.check_plan(parts)
        self.write(parts)
        sampling = [seq for seq, length, _ in parts if length == seq.remaining]
        self.scheduler.commit(parts)
        for seq in sampling:
            self.read(seq)
            seq.append(sum(seq.tokens) % 2)  # the token is a function of all before it
            if len(seq.generated) == seq.max_new:
                self.open.remove(seq)
                self.scheduler.remove(seq)
        assert (
            oldest is None
            or len(oldest.tokens) + oldest.computed > before
            or (oldest not in self.open)
        ), "the oldest sequence always gets on"

    def check_plan(self, parts: list[Part]) -> None:
        rows = [part for part in parts if not part.sequence.prefilling]
        chunks = [part for part in parts if part.sequence.prefilling]
        assert parts == rows + chunks
        assert {p.sequence.id for p in rows} == {
            seq.id for seq in self.scheduler.running if not seq.prefilling
        }
        assert all(part.length == 1 for part in rows)
        assert all(part.length > 0 for part in chunks)
        assert sum(part.length for part in chunks) <= self.scheduler.chunk_tokens
        assert len(self.scheduler.running) <= self.scheduler.max_batch
        ids = [part.sequence.id for part in chunks]
        assert ids == sorted(ids)

    def write(self, parts: list[Part]) -> None:
        written = set()
        for seq, length, _ in parts:
            for position in range(seq.computed, seq.computed + length):
                block = seq.blocks[position // PAGE]
                assert not self.pages.pool.is_cached(block), "a shared page is written to"
                slot = block * PAGE + position % PAGE
                assert slot not in written
                written.add(slot)
                self.slots[slot] = tuple(seq.tokens[: position + 1])

    def read(self, seq: Sequence) -> None:
        for position in range(len(seq.tokens)):
            slot = seq.blocks[position // PAGE] * PAGE + position % PAGE
            assert self.slots[slot] == tuple(seq.tokens[: position + 1])

    @invariant()
    def order_is_that_of_arrival(self) -> None:
        if self.number:
            assert [seq.id for seq in self.scheduler] == [seq.id for seq in self.open]

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        if not hasattr(self, "pages"):
            return
        pool, tree = self.pages.pool, self.pages.tree
        held = Counter(block for seq in self.open for block in seq.blocks)
        assert [pool.holders(b) for b in range(pool.num_blocks)] == [
            held[b] for b in range(pool.num_blocks)
        ]
        cached = {block for block, _, _ in tree.items()}
        assert cached == {b for b in range(pool.num_blocks) if pool.is_cached(b)}
        assert pool.held_count == len(held) <= self.pages.budget_blocks
        assert pool.idle_count == len(cached - held.keys())
        assert pool.free_count == pool.num_blocks - len(cached | held.keys())

    @invariant()
    def the_tree_holds_what_was_computed(self) -> None:
        if not hasattr(self, "pages"):
            return
        parents = {block: parent for block, parent, _ in self.pages.tree.items()}
        tokens = {block: self.slots[block * PAGE + PAGE - 1] for block in parents}
        assert len(set(tokens.values())) == len(tokens), "one prefix, one page"
        for block, parent, page in self.pages.tree.items():
            before = () if parent == ROOT else tokens[parent]
            assert tokens[block][:-PAGE] == before
            assert tokens[block] == before + tuple(memoryview(page).cast("i"))
        for seq in self.open:
            for index in range(seq.indexed):
                parent = seq.blocks[index - 1] if index else ROOT
                assert parents[seq.blocks[index]] == parent

    def teardown(self) -> None:
        if not hasattr(self, "pages"):
            return
        for _ in range(10_000):
            if not self.open:
                break
            self.step()
        assert not self.open
        assert not self.scheduler.running and not self.scheduler.waiting
        pool = self.pages.pool
        assert pool.held_count == 0
        self.pages.tree.evict(pool.num_blocks)
        assert pool.free_count == pool.num_blocks


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def plan(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Run a step in which every sampled token is 7; (id, tokens) of each part."""
    parts = scheduler.plan()
    shown = [(seq.id, length) for seq, length, _ in parts]
    sampling = [part.sequence for part in parts if part.samples]
    scheduler.commit(parts)
    for seq in sampling:
        seq.append(7)
    return shown


def test_running_rows_go_first_then_prompts_share_the_budget() -> None:
    queue = scheduler(32, chunk=5)
    for number, length in enumerate((3, 4, 9)):
        queue.add(sequence(number, (number,) * length, 20))
    assert plan(queue) == [(0, 3), (1, 2)]
    assert plan(queue) == [(0, 1), (1, 2), (2, 3)]
    assert plan(queue) == [(0, 1), (1, 1), (2, 5)]
    assert plan(queue) == [(0, 1), (1, 1), (2, 1)]


def test_a_seat_is_taken_as_soon_as_it_is_free() -> None:
    queue = scheduler(32, batch=1)
    first, second = sequence(0, (1, 1), 9), sequence(1, (2, 2), 9)
    queue.add(first)
    queue.add(second)
    assert plan(queue) == [(0, 2)]
    assert plan(queue) == [(0, 1)]
    queue.remove(first)
    assert plan(queue) == [(1, 2)]


def test_the_youngest_row_makes_room_and_comes_back_first() -> None:
    queue = scheduler(6)
    rows = [sequence(0, (0,) * 4, 8), sequence(1, (1,) * 3, 8), sequence(2, (2,) * 2, 8)]
    for row in rows:
        queue.add(row)
    assert plan(queue) == [(0, 4), (1, 3)]  # the third would leave no page for those two to grow
    assert plan(queue) == [(0, 1), (1, 1)]
    assert plan(queue) == [(0, 1), (1, 1)]
    assert plan(queue) == [(0, 1)]
    assert (queue.preemptions, [seq.id for seq in queue.waiting]) == (1, [1, 2])
    assert (rows[1].blocks, list(rows[1].tokens)) == ([], [1, 1, 1, 7, 7, 7])


def test_idle_pages_go_before_a_running_row_does() -> None:
    queue = scheduler(6)
    done = sequence(0, (0,) * 8, 2)
    queue.add(done)
    plan(queue)
    queue.remove(done)
    assert queue.pages.pool.idle_count == 4
    queue.add(sequence(1, (1,) * 4, 8))
    queue.add(sequence(2, (2,) * 2, 8))
    for _ in range(3):
        plan(queue)
    assert (queue.preemptions, queue.pages.tree.evicted_blocks) == (0, 3)


def test_a_prompt_waits_for_the_page_another_one_is_filling() -> None:
    queue = scheduler(32, chunk=9)
    queue.add(sequence(0, (1, 2, 3, 4, 5), 9))
    queue.add(sequence(1, (1, 2, 3, 4, 6), 9))
    assert plan(queue) == [(0, 5)]
    assert plan(queue) == [(0, 1), (1, 1)]


def test_prompts_that_part_within_the_first_page_do_not_wait() -> None:
    queue = scheduler(32, chunk=9)
    queue.add(sequence(0, (1, 2, 3), 9))
    queue.add(sequence(1, (1, 3, 3), 9))
    assert plan(queue) == [(0, 3), (1, 3)]


def test_a_sequence_that_may_not_share_neither_reads_nor_leaves_pages() -> None:
    queue = scheduler(32)
    for number in range(2):
        seq = sequence(number, (1,) * 8, 9)
        seq.cacheable = number == 1
        queue.add(seq)
        plan(queue)
        assert (seq.indexed, seq.cached_tokens) == ((4, 0) if number else (0, 0))
        queue.remove(seq)
    assert queue.pages.pool.idle_count == 4
    private = sequence(2, (1,) * 8, 9)
    private.cacheable = False
    queue.add(private)
    assert plan(queue) == [(2, 8)]
    assert queue.pages.report(private).reason == "off"
