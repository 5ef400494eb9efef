"""The prefix tree: which cached page holds which tokens after which others."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final

from helexa.engine.cache.blocks import BlockPool

ROOT: Final = -1


class PrefixTree:
    """Maps token prefixes, in whole pages, to the blocks that hold their keys and values.

    A page of the tree *is* its block: children are found by (parent block, bytes of the page's
    token ids). What is handed out by ``match`` is held by the caller from its first page on, and
    ``insert`` gives equal pages one block, so whoever holds a page holds all before it. Hence an
    idle page has only idle descendants, and every idle page can be evicted, leaves first.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.evicted_blocks = 0
        self._pool = pool
        self._table: dict[tuple[int, bytes], int] = {}
        self._keys: dict[int, tuple[int, bytes]] = {}
        self._children = [0] * pool.num_blocks
        self._used = [0] * pool.num_blocks
        self._leaves: set[int] = set()
        self._clock = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def items(self) -> Iterator[tuple[int, int, bytes]]:
        """Every page as (block, parent block or ROOT, bytes of its tokens)."""
        return ((block, parent, page) for block, (parent, page) in self._keys.items())

    def match(self, pages: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known beginning of ``pages``; the caller retains them."""
        blocks: list[int] = []
        parent = ROOT
        for page in pages:
            block = self._table.get((parent, page))
            if block is None:
                break
            blocks.append(block)
            parent = block
        self.touch(blocks)
        return blocks

    def insert(self, parent: int, page: bytes, block: int) -> int:
        """Own a full page that stands after ``parent`` in ``block``, which the caller holds.

        Returns the block of that page from now on: another one if the page was known already. The
        caller then changes over to it, so that its pages stay those of the tree.
        """
        key = (parent, page)
        known = self._table.get(key)
        if known is not None:
            self.touch((known,))
            if known != block:
                self._pool.retain((known,))
                self._pool.release((block,))
            return known
        self._table[key] = block
        self._keys[block] = key
        self._pool.cache(block)
        self._leaves.add(block)
        if parent != ROOT:
            self._children[parent] += 1
            self._leaves.discard(parent)
        self.touch((block,))
        return block

    def touch(self, blocks: Iterable[int]) -> None:
        """Make pages the most recently used ones."""
        self._clock += 1
        for block in blocks:
            self._used[block] = self._clock

    def evict(self, count: int) -> int:
        """Free at least ``count`` idle pages, least recently used leaves first, or all there are.

        Returns how many were freed.
        """
        pool, used = self._pool, self._used
        heap = [(used[leaf], leaf) for leaf in self._leaves if pool.is_idle(leaf)]
        heapq.heapify(heap)
        freed = 0
        while heap and freed < count:
            _, block = heapq.heappop(heap)
            parent = self._remove(block)
            freed += 1
            if parent in self._leaves and pool.is_idle(parent):
                heapq.heappush(heap, (used[parent], parent))
        self.evicted_blocks += freed
        return freed

    def forget(self, blocks: list[int]) -> None:
        """Drop the pages of a sequence that nobody else uses or builds on, the last one first.

        For contents that are not to be trusted; the caller still holds the blocks.
        """
        for block in reversed(blocks):
            if block not in self._keys:
                continue
            if block not in self._leaves or self._pool.holders(block) > 1:
                return
            self._remove(block)

    def _remove(self, leaf: int) -> int:
        """Give up a leaf; returns its parent, which may have become one."""
        key = self._keys.pop(leaf)
        del self._table[key]
        self._leaves.discard(leaf)
        parent = key[0]
        if parent != ROOT:
            self._children[parent] -= 1
            if not self._children[parent]:
                self._leaves.add(parent)
        self._pool.uncache(leaf)
        return parent
