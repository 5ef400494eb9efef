"""The pages of the KV cache as numbers: who holds which block, and which ones are free."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Counts the holders of ``num_blocks`` blocks of ``block_size`` tokens each.

    A block is *held* while a sequence refers to it, *cached* while the prefix tree owns it, *idle*
    if it is cached and not held, and *free* if it is neither. Blocks are handed out in runs of
    consecutive numbers where possible, so that a sequence alone occupies one stretch of memory.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.free_count = num_blocks
        self.idle_count = 0
        self._holders = [0] * num_blocks
        self._cached = bytearray(num_blocks)
        self._taken = bytearray(num_blocks)  # 1 where a block is not free: runs are found by search
        self._start = 0  # where the search for a new run begins: behind the room of the last one

    @property
    def held_count(self) -> int:
        """Blocks that sequences refer to, each counted once."""
        return self.num_blocks - self.free_count - self.idle_count

    def holders(self, block: int) -> int:
        """How many references sequences have to a block."""
        return self._holders[block]

    def is_cached(self, block: int) -> bool:
        """Whether the prefix tree owns a block."""
        return bool(self._cached[block])

    def is_idle(self, block: int) -> bool:
        """Whether only the prefix tree has a block."""
        return bool(self._cached[block]) and not self._holders[block]

    def allocate(self, count: int, after: int | None = None, room: int = 0) -> list[int]:
        """Take ``count`` free blocks, held once each.

        They continue behind the block ``after`` as far as that is free; the rest comes in as few
        runs as possible, where there is ``room`` for that many if there is such a place.
        Raises ValueError if fewer are free: callers make sure first.
        """
        if count > self.free_count:
            raise ValueError(f"{count} blocks wanted, {self.free_count} free")
        blocks: list[int] = []
        if after is not None:
            self._take_run(after + 1, count, blocks)
        while len(blocks) < count:
            left = count - len(blocks)
            start, length = self._find_run(left, room)
            self._take_run(start, min(length, left), blocks)
        self.free_count -= count
        return blocks

    def retain(self, blocks: Iterable[int]) -> None:
        """Add a reference to each block, which must be held or cached."""
        holders = self._holders
        for block in blocks:
            if not holders[block]:
                self.idle_count -= 1
            holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Drop a reference to each block; one that nobody else holds becomes idle or free."""
        holders = self._holders
        for block in blocks:
            holders[block] -= 1
            if not holders[block]:
                if self._cached[block]:
                    self.idle_count += 1
                else:
                    self._free(block)

    def cache(self, block: int) -> None:
        """Let the prefix tree own a block that a sequence holds."""
        self._cached[block] = 1

    def uncache(self, block: int) -> None:
        """Take a block from the prefix tree; it becomes free unless a sequence holds it."""
        self._cached[block] = 0
        if not self._holders[block]:
            self.idle_count -= 1
            self._free(block)

    def _free(self, block: int) -> None:
        self._taken[block] = 0
        self.free_count += 1

    def _take_run(self, start: int, count: int, into: list[int]) -> None:
        """Take the free blocks from ``start`` on, up to the first that is not, or ``count``."""
        taken = self._taken
        for block in range(start, min(start + count, self.num_blocks)):
            if taken[block]:
                return
            taken[block] = 1
            self._holders[block] = 1
            into.append(block)

    def _find_run(self, count: int, room: int) -> tuple[int, int]:
        """Start and length of a free run: of ``room``, else of ``count``, else as long as there is.

        The next search starts behind it, so that neighbours can grow into the room they were given.
        """
        wanted = [room] if room > count else []
        while count:
            wanted.append(count)
            count //= 2
        for length in wanted:
            run = bytes(length)
            start = self._taken.find(run, self._start)
            if start < 0:
                start = self._taken.find(run)
            if start >= 0:
                self._start = (start + length) % self.num_blocks
                return start, length
        raise ValueError("no free block")  # allocate() has counted: there is one
