"""The pages and the states of running sequences, for models that keep a state."""

from __future__ import annotations

from collections.abc import Iterable

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.copies import Copy
from helexa.engine.cache.lookups import Lookups
from helexa.engine.cache.pages import EVICT_SHARE
from helexa.engine.cache.snapshots import Snapshots
from helexa.engine.outputs import CacheReport, PrefixStats
from helexa.engine.sequence import Sequence


class StatePages:
    """As `Pages`, with a slot for the state of each sequence, and snapshots in place of a tree.

    A sequence is continued from the longest snapshot that it begins with. Whole pages of that are
    shared; a page that is not full is copied, as the sequence writes to the rest of it. A draft
    needs one of the ``spares``, slots for copies of states.
    """

    def __init__(
        self,
        pool: BlockPool,
        budget_blocks: int,
        snapshots: Snapshots,
        *,
        slots: int,
        spares: Iterable[int] = (),
        reuse: bool = True,
    ) -> None:
        self.pool = pool
        self.snapshots = snapshots
        self.lookups = Lookups(pool.block_size, on=reuse, snapshots=True)
        self.budget_blocks = min(budget_blocks, pool.num_blocks)
        self._size = pool.block_size
        self._slots = list(range(slots))[::-1]
        self._spares = list(spares)
        self._copies: list[Copy] = []

    @property
    def available(self) -> int:
        """Blocks that sequences may still take."""
        return self.budget_blocks - self.pool.held_count

    def stats(self) -> PrefixStats:
        """Totals since the start."""
        return self.lookups.stats(self.snapshots.evicted_blocks)

    def take_copies(self) -> list[Copy]:
        """What is to be copied before the next step, in this order."""
        copies, self._copies = self._copies, []
        return copies

    def next_page(self, seq: Sequence) -> None:
        """Pages of a running sequence are nobody else's: the state behind them is its own."""

    def admit(self, seq: Sequence, reserve: int, pending: set[tuple[int, bytes]]) -> bool:
        """Give a sequence a state and the pages of all its tokens; False if it must wait.

        It waits if fewer than ``reserve`` blocks would be left.
        """
        found = self.snapshots.find(seq.tokens.tobytes()) if self.lookups.concerns(seq) else None
        shared = found.length // self._size if found is not None else 0
        known = list(found.blocks[:shared]) if found is not None else []
        self.pool.retain(known)
        wanted = self._blocks_for(len(seq.tokens)) - shared
        if self.available < wanted + reserve:
            self.pool.release(known)
            return False
        seq.blocks, seq.state = known, self._slots.pop()
        seq.computed = found.length if found is not None else 0
        self._extend(seq, wanted)  # perhaps into what was found: it is copied before it is written
        if found is not None:
            self._copies.append(Copy("state", found.slot, seq.state))
            for page in found.blocks[shared:]:
                self._copies.append(Copy("page", page, seq.blocks[shared]))
        seq.runs += 1
        if seq.runs == 1:
            self.lookups.started(seq)
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

        They are tried on a copy of its state, so there is none while another sequence has that. No
        page is taken if that left fewer than ``reserve`` for others.
        """
        missing = self._blocks_for(len(seq.tokens) + count) - len(seq.blocks)
        if missing > 0 and self._spares and self.available >= missing + reserve:
            self._extend(seq, missing)
        room = min(count, len(seq.blocks) * self._size - len(seq.tokens))
        if room < 1 or not self._spares:
            return 0
        seq.fork = self._spares.pop()
        self._copies.append(Copy("state", seq.state, seq.fork))
        return room

    def settle(self, seq: Sequence, *, whole: bool) -> bool:
        """A draft was right, as a ``whole`` or not: only then its state is the sequence's.

        Returns whether the step counts. If not, the state is that of before it, and what was right
        is computed again with the next token.
        """
        if seq.fork is not None:
            if whole:
                seq.state, seq.fork = seq.fork, seq.state
            self._spares.append(seq.fork)
            seq.fork = None
        return whole

    def advance(self, seq: Sequence, count: int) -> bool:
        """Count ``count`` more tokens as computed, and keep a snapshot where one is due.

        Returns whether anybody else has more pages for that, which is never so.
        """
        seq.computed += count
        if seq.computed in seq.cuts and self.lookups.concerns(seq):
            blocks = seq.blocks[: self._blocks_for(seq.computed)]
            kept = self.snapshots.add(seq.tokens[: seq.computed].tobytes(), blocks)
            if kept is not None:
                self._copies.append(Copy("state", seq.state, kept.slot))
        return False

    def release(self, seq: Sequence, *, forget: bool = False) -> None:
        """Take back what a sequence has; snapshots of it stay unless they are to be forgotten."""
        if forget:
            self.snapshots.forget(seq.tokens.tobytes())
        self.pool.release(seq.blocks)
        self._slots.append(seq.state)
        if seq.fork is not None:
            self._spares.append(seq.fork)
            seq.fork = None
        seq.blocks = []
        seq.computed = 0

    def distrust(self) -> None:
        """A step has failed: nothing that it may have changed is used again."""
        self._copies = []
        self.snapshots.clear()

    def remember(self, seq: Sequence) -> None:
        """Note as much of a prompt as was computed, if that was not all: nobody reports of it."""
        self.lookups.remember(seq)

    def report(self, seq: Sequence) -> CacheReport:
        """What the cache did for a prompt that has just been computed; remembers the prompt."""
        return self.lookups.report(seq)

    def _extend(self, seq: Sequence, count: int) -> None:
        missing = count - self.pool.free_count
        if missing > 0:
            self.snapshots.evict(count + self.pool.num_blocks // EVICT_SHARE)
        room = self._blocks_for(seq.most_tokens) - len(seq.blocks)
        after = seq.blocks[-1] if seq.blocks else None
        seq.blocks += self.pool.allocate(count, after, room)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._size)
