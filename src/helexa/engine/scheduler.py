"""Which sequences run in the next step, and with how many tokens each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from helexa.engine.cache.pages import Pages
from helexa.engine.cache.state_pages import StatePages
from helexa.engine.sequence import Sequence


class Part(NamedTuple):
    """A sequence's share of a step: the next ``length`` of its tokens are computed.

    Behind its last token a ``draft`` of what may follow is computed, too.
    """

    sequence: Sequence
    length: int
    draft: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether this share reaches the sequence's last token, so that the next one is drawn."""
        return self.length == self.sequence.remaining


class Scheduler:
    """Continuous batching over a pool of pages.

    Every running row is in every step; what is left of ``chunk_tokens`` per step goes to prompts in
    order of arrival. A newcomer is given the pages of its whole prompt when it starts, in order of
    arrival too, so a long prompt is never overtaken for good. A running row that lacks a page
    takes it from the youngest one, which starts over later with its tokens kept. The running
    sequences are always older than the waiting ones, and the oldest is never preempted for
    another: it finishes, so all do.
    """

    def __init__(self, pages: Pages | StatePages, *, max_batch: int, chunk_tokens: int) -> None:
        self.pages = pages
        self.max_batch = max_batch
        self.chunk_tokens = chunk_tokens
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.preemptions = 0
        self._page_tokens = pages.pool.block_size
        self._worth_trying = True  # whether anything changed since the head was refused its pages

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence behind all others."""
        self.waiting.append(seq)

    def remove(self, seq: Sequence, *, forget: bool = False) -> None:
        """Take a sequence out, wherever it is; its pages are free at once or stay in the tree."""
        if seq in self.running:
            self.running.remove(seq)
            if not forget:
                self.pages.remember(seq)
            self.pages.release(seq, forget=forget)
        else:
            self.waiting.remove(seq)
        self._worth_trying = True

    def plan(self) -> list[Part]:
        """The next step's parts, running rows first; empty only if there is nothing to run."""
        parts = self._rows()
        budget = self.chunk_tokens
        pending: set[tuple[int, bytes]] = set()
        for seq in self.running:
            if seq.prefilling and budget:
                budget -= self._take_chunk(seq, budget, parts, pending)
        while budget and self._admit_next(pending):
            budget -= self._take_chunk(self.running[-1], budget, parts, pending)
        return parts

    def commit(self, parts: list[Part]) -> None:
        """The step has run: count its tokens, share the pages they filled."""
        for seq, length, _ in parts:
            if self.pages.advance(seq, length):
                self._worth_trying = True
            if not seq.remaining:
                seq.prefilling = False

    def commit_drafted(self, seq: Sequence) -> None:
        """A token that was drafted has been appended: it was computed with the draft."""
        if self.pages.advance(seq, 1):
            self._worth_trying = True

    def restart(self) -> None:
        """Have every running sequence computed anew: what a failed step left is not trusted."""
        while self.running:
            self._preempt(self.running.pop())

    def _rows(self) -> list[Part]:
        """What is not computed of each row that is past its prompt, oldest first: mostly a token.

        It is more where a recurrent state had to be put back to before a draft.
        """
        parts: list[Part] = []
        index = 0
        while index < len(self.running):  # the list shrinks from its end when pages are short
            seq = self.running[index]
            if not seq.prefilling and self._secure(seq):
                parts.append(Part(seq, seq.remaining))
            index += 1
        return parts

    def _secure(self, seq: Sequence) -> bool:
        """Give a row a page for its next token, taken from younger rows if need be."""
        while not self.pages.grow(seq):
            youngest = self.running.pop()
            self._preempt(youngest)
            if youngest is seq:
                return False
        return True

    def _preempt(self, seq: Sequence) -> None:
        self.pages.release(seq)
        seq.prefilling = True
        self.waiting.appendleft(seq)
        self.preemptions += 1
        self._worth_trying = True

    def _take_chunk(
        self, seq: Sequence, budget: int, parts: list[Part], pending: set[tuple[int, bytes]]
    ) -> int:
        """Plan as much of a prompt as the budget allows; note the page it is about to fill."""
        count = min(budget, seq.until_cut)
        parts.append(Part(seq, count))
        if seq.computed % self._page_tokens + count >= self._page_tokens:
            page = self.pages.next_page(seq)
            if page is not None:
                pending.add(page)
        return count

    def _admit_next(self, pending: set[tuple[int, bytes]]) -> bool:
        """Start the sequence that waits longest, if there is a seat and its pages are to be had.

        Each row that runs may need a page soon: those are left over, or it would be preempted.
        """
        if not self.waiting or len(self.running) >= self.max_batch or not self._worth_trying:
            return False
        if not self.pages.admit(self.waiting[0], len(self.running), pending):
            self._worth_trying = False  # until pages are shared or given back
            return False
        self.running.append(self.waiting.popleft())
        return True
