"""The pages of running sequences: found, taken, shared, and given back."""

from __future__ import annotations

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.copies import Copy
from helexa.engine.cache.lookups import Lookups
from helexa.engine.cache.prefix import ROOT, PrefixTree
from helexa.engine.outputs import CacheReport, PrefixStats
from helexa.engine.sequence import Sequence

EVICT_SHARE = 64  # at least 1/64 of the pool goes at once: runs of blocks rather than single ones


class Pages:
    """Gives sequences the pages they need, out of a pool that also keeps what others computed.

    Sequences may hold ``budget_blocks`` of the pool together; whatever they leave keeps idle pages
    of the prefix tree, which are given up on demand. With ``reuse`` off nothing is ever kept.
    """

    def __init__(self, pool: BlockPool, budget_blocks: int, *, reuse: bool = True) -> None:
        self.pool = pool
        self.tree = PrefixTree(pool)
        self.lookups = Lookups(pool.block_size, on=reuse)
        self.budget_blocks = min(budget_blocks, pool.num_blocks)
        self._size = pool.block_size

    @property
    def available(self) -> int:
        """Blocks that sequences may still take."""
        return self.budget_blocks - self.pool.held_count

    def stats(self) -> PrefixStats:
        """Totals since the start."""
        return self.lookups.stats(self.tree.evicted_blocks)

    def take_copies(self) -> list[Copy]:
        """What is to be copied before the next step: pages are only shared."""
        return []

    def next_page(self, seq: Sequence) -> tuple[int, bytes] | None:
        """What the tree will know once a sequence's current page is full: (parent, its tokens)."""
        if not self.lookups.concerns(seq):
            return None
        parent = seq.blocks[seq.indexed - 1] if seq.indexed else ROOT
        return parent, seq.page(seq.indexed, self._size)

    def admit(self, seq: Sequence, reserve: int, pending: set[tuple[int, bytes]]) -> bool:
        """Give a sequence the pages of all its tokens, known ones first; False if it must wait.

        It waits if fewer than ``reserve`` blocks would be left, or if its first unknown page is
        ``pending``: another sequence is about to fill it.
        """
        known = self._match(seq)
        self.pool.retain(known)
        wanted = self._blocks_for(len(seq.tokens)) - len(known)
        waits = self.available < wanted + reserve
        if not waits and pending and self.lookups.concerns(seq):
            parent = known[-1] if known else ROOT
            page = seq.page(len(known), self._size)
            waits = (parent, page) in pending and (len(known) + 1) * self._size < len(seq.tokens)
        if waits:
            self.pool.release(known)
            return False
        seq.blocks = known
        seq.indexed = len(known)
        seq.computed = len(known) * self._size
        seq.runs += 1
        if seq.runs == 1:
            self.lookups.started(seq)
        self._extend(seq, wanted)
        return True

    def grow(self, seq: Sequence) -> bool:
        """Make sure of pages for all of a sequence's tokens; False if they are not to be had."""
        missing = self._blocks_for(len(seq.tokens)) - len(seq.blocks)
        if missing <= 0:
            return True
        if self.available < missing:
            return False
        self._extend(seq, missing)
        return True

    def stretch(self, seq: Sequence, count: int, reserve: int) -> int:
        """Make room for ``count`` tokens behind a sequence's last; for how many there is some.

        No page is taken if that left fewer than ``reserve`` for others.
        """
        missing = self._blocks_for(len(seq.tokens) + count) - len(seq.blocks)
        if missing > 0 and self.available >= missing + reserve:
            self._extend(seq, missing)
        return min(count, len(seq.blocks) * self._size - len(seq.tokens))

    def settle(self, seq: Sequence, *, whole: bool) -> bool:
        """A draft was right, as a ``whole`` or not; what counts as computed may be told by token.

        Keys and values of wrong tokens are never read: they lie behind what counts.
        """
        return True

    def advance(self, seq: Sequence, count: int) -> bool:
        """Count ``count`` more tokens as computed and let the tree have the pages they filled.

        Returns whether there were any.
        """
        seq.computed += count
        full = seq.computed // self._size
        if full == seq.indexed or not self.lookups.concerns(seq):
            return False
        blocks = seq.blocks
        for index in range(seq.indexed, full):
            parent = blocks[index - 1] if index else ROOT
            blocks[index] = self.tree.insert(parent, seq.page(index, self._size), blocks[index])
        seq.indexed = full
        return True

    def release(self, seq: Sequence, *, forget: bool = False) -> None:
        """Take back a sequence's pages; the tree keeps the full ones unless it is to ``forget``."""
        if forget:
            self.tree.forget(seq.blocks)
        elif seq.indexed:
            self.tree.touch(seq.blocks[: seq.indexed])
        self.pool.release(seq.blocks)
        seq.blocks = []
        seq.indexed = seq.computed = 0

    def remember(self, seq: Sequence) -> None:
        """Note as much of a prompt as was computed, if that was not all: nobody reports of it."""
        self.lookups.remember(seq)

    def report(self, seq: Sequence) -> CacheReport:
        """What the cache did for a prompt that has just been computed; remembers the prompt."""
        return self.lookups.report(seq)

    def _match(self, seq: Sequence) -> list[int]:
        if not self.lookups.concerns(seq):
            return []
        usable = (len(seq.tokens) - 1) // self._size  # the last token is always computed
        return self.tree.match(seq.page(index, self._size) for index in range(usable))

    def _extend(self, seq: Sequence, count: int) -> None:
        missing = count - self.pool.free_count
        if missing > 0:
            self.tree.evict(max(missing, self.pool.num_blocks // EVICT_SHARE))
        room = self._blocks_for(seq.most_tokens) - len(seq.blocks)
        after = seq.blocks[-1] if seq.blocks else None
        seq.blocks += self.pool.allocate(count, after, room)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._size)
