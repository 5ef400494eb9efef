"""Prompts that can be continued from where a recurrent model stood: pages, and the state."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.history import TOKEN_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a model stood after these tokens (their ids' bytes).

    ``blocks`` has their keys and values, the last page perhaps in part; ``slot`` their state.
    """

    tokens: bytes
    blocks: tuple[int, ...]
    slot: int

    @property
    def length(self) -> int:
        """How many tokens it stands behind."""
        return len(self.tokens) // TOKEN_BYTES


class Snapshots:
    """The snapshots that are kept, the least recently used first to go.

    Each takes one of ``slots``; together, with their pages counted once, they take no more than
    ``budget_bytes``. A page belongs to the cache (see `BlockPool`) while a snapshot has it.
    """

    def __init__(
        self,
        pool: BlockPool,
        slots: Sequence[int],
        *,
        budget_bytes: int,
        block_bytes: int,
        state_bytes: int,
    ) -> None:
        self.evicted_blocks = 0
        self._pool = pool
        self._free = list(slots)
        self._budget_bytes = budget_bytes
        self._block_bytes = block_bytes
        self._state_bytes = state_bytes
        self._kept: OrderedDict[bytes, Snapshot] = OrderedDict()
        self._uses: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """What the snapshots take together."""
        return self._bytes(len(self._uses), len(self._kept))

    def find(self, tokens: bytes) -> Snapshot | None:
        """The longest snapshot that tokens begin with and go beyond; it counts as used."""
        best = None
        for known, snapshot in self._kept.items():
            longer = best is None or snapshot.length > best.length
            if longer and len(known) < len(tokens) and tokens.startswith(known):
                best = snapshot
        if best is not None:
            self._kept.move_to_end(best.tokens)
        return best

    def add(self, tokens: bytes, blocks: Sequence[int]) -> Snapshot | None:
        """Keep these pages, which the caller holds; the caller copies the state to its slot.

        None if it is known already, or would not fit if it were the only one.
        """
        if tokens in self._kept:
            self._kept.move_to_end(tokens)
            return None
        if self._bytes(len(blocks), 1) > self._budget_bytes:
            return None
        while self._kept and not (self._free and self._fits(blocks)):
            self.evict_one()
        if not self._free:
            return None
        snapshot = Snapshot(tokens, tuple(blocks), self._free.pop())
        self._kept[tokens] = snapshot
        for block in blocks:
            if not self._uses[block]:
                self._pool.cache(block)
            self._uses[block] += 1
        return snapshot

    def evict(self, count: int) -> None:
        """Give up snapshots until ``count`` blocks are free, or none is left."""
        while self._kept and self._pool.free_count < count:
            self.evict_one()

    def evict_one(self) -> None:
        """Give up the one that was not used for longest."""
        self._drop(next(iter(self._kept)))

    def forget(self, tokens: bytes) -> None:
        """Give up all that stand within these tokens: what was computed of them is not trusted."""
        for known in [known for known in self._kept if tokens.startswith(known)]:
            self._drop(known)

    def clear(self) -> None:
        """Give all up."""
        while self._kept:
            self.evict_one()

    def _drop(self, key: bytes) -> None:
        snapshot = self._kept.pop(key)
        self._free.append(snapshot.slot)
        for block in snapshot.blocks:
            self._uses[block] -= 1
            if not self._uses[block]:
                del self._uses[block]
                self._pool.uncache(block)
                self.evicted_blocks += 1

    def _fits(self, blocks: Sequence[int]) -> bool:
        new = sum(block not in self._uses for block in blocks)
        return self._bytes(len(self._uses) + new, len(self._kept) + 1) <= self._budget_bytes

    def _bytes(self, blocks: int, states: int) -> int:
        return blocks * self._block_bytes + states * self._state_bytes
