"""Blocks are held, cached, idle or free, and come in consecutive runs."""

from __future__ import annotations

import random

import pytest

from helexa.engine.cache.blocks import BlockPool


def test_a_sequence_alone_gets_consecutive_blocks() -> None:
    pool = BlockPool(16, 4)
    blocks = pool.allocate(3)
    for _ in range(5):
        blocks += pool.allocate(1, after=blocks[-1])
    assert blocks == list(range(8))


def test_neighbours_are_given_room_to_grow() -> None:
    pool = BlockPool(32, 4)
    first = pool.allocate(2, room=10)
    second = pool.allocate(2, room=10)
    for _ in range(8):
        first += pool.allocate(1, after=first[-1])
        second += pool.allocate(1, after=second[-1])
    for blocks in (first, second):
        assert blocks == list(range(blocks[0], blocks[0] + 10))


def test_scattered_blocks_are_used_up_when_there_is_no_run() -> None:
    pool = BlockPool(9, 4)
    blocks = pool.allocate(9)
    pool.release(blocks[::2])
    assert sorted(pool.allocate(5, after=3, room=4)) == blocks[::2]
    assert pool.free_count == 0


def test_more_than_is_free_is_refused() -> None:
    pool = BlockPool(4, 4)
    pool.allocate(3)
    with pytest.raises(ValueError, match="2 blocks wanted, 1 free"):
        pool.allocate(2)
    assert pool.free_count == 1


def test_a_shared_block_is_free_after_its_last_holder() -> None:
    pool = BlockPool(4, 4)
    blocks = pool.allocate(2)
    pool.retain(blocks)
    pool.release(blocks)
    assert (pool.free_count, pool.held_count) == (2, 2)
    pool.release(blocks)
    assert (pool.free_count, pool.held_count) == (4, 0)


def test_a_cached_block_goes_idle_and_can_be_held_again() -> None:
    pool = BlockPool(4, 4)
    (block,) = pool.allocate(1)
    pool.cache(block)
    pool.release([block])
    assert (pool.is_idle(block), pool.idle_count, pool.free_count) == (True, 1, 3)
    pool.retain([block])
    assert (pool.is_idle(block), pool.idle_count, pool.held_count) == (False, 0, 1)
    pool.uncache(block)
    pool.release([block])
    assert (pool.is_cached(block), pool.free_count) == (False, 4)


def test_counts_agree_with_a_model_of_the_pool() -> None:
    """The counters are kept step by step; here they are counted afresh."""
    chance = random.Random(7)
    pool = BlockPool(24, 4)
    held: list[int] = []
    cached: set[int] = set()
    for _ in range(3000):
        match chance.randrange(5):
            case 0 if pool.free_count:
                after = chance.choice(held) if held else None
                held += pool.allocate(
                    chance.randint(1, pool.free_count), after, chance.randrange(9)
                )
            case 1 if held:
                pool.release([held.pop(chance.randrange(len(held)))])
            case 2 if held or cached:
                block = chance.choice(held + sorted(cached))
                pool.retain([block])
                held.append(block)
            case 3 if held:
                block = chance.choice(held)
                if block not in cached:
                    pool.cache(block)
                    cached.add(block)
            case 4 if cached:
                block = chance.choice(sorted(cached))
                pool.uncache(block)
                cached.remove(block)
        assert [pool.holders(b) for b in range(24)] == [held.count(b) for b in range(24)]
        assert pool.held_count == len(set(held))
        assert pool.idle_count == len(cached - set(held))
        assert pool.free_count == 24 - len(cached | set(held))
