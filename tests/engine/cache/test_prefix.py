"""The tree knows which page holds which tokens, and gives the oldest up first."""

from __future__ import annotations

import pytest

from helexa.engine.cache.blocks import BlockPool
from helexa.engine.cache.prefix import ROOT, PrefixTree


@pytest.fixture
def pool() -> BlockPool:
    return BlockPool(12, 4)


@pytest.fixture
def tree(pool: BlockPool) -> PrefixTree:
    return PrefixTree(pool)


def pages(text: str) -> list[bytes]:
    return [letter.encode() for letter in text]


def store(pool: BlockPool, tree: PrefixTree, text: str) -> list[int]:
    """Fill pages as a sequence does, and let them go."""
    blocks = tree.match(pages(text))
    pool.retain(blocks)
    for page in pages(text)[len(blocks) :]:
        parent = blocks[-1] if blocks else ROOT
        (block,) = pool.allocate(1, parent if parent != ROOT else None)
        blocks.append(tree.insert(parent, page, block))
    pool.release(blocks)
    return blocks


def test_the_longest_known_beginning_matches(pool: BlockPool, tree: PrefixTree) -> None:
    blocks = store(pool, tree, "abcd")
    assert tree.match(pages("abxd")) == blocks[:2]
    assert tree.match(pages("abcde")) == blocks
    assert tree.match(pages("b")) == []


def test_a_page_is_known_only_after_the_same_pages(pool: BlockPool, tree: PrefixTree) -> None:
    store(pool, tree, "ab")
    store(pool, tree, "cb")
    assert tree.match(pages("ab"))[1] != tree.match(pages("cb"))[1]


def test_branches_share_what_they_have_in_common(pool: BlockPool, tree: PrefixTree) -> None:
    left, right = store(pool, tree, "abc"), store(pool, tree, "abd")
    assert left[:2] == right[:2]
    assert pool.idle_count == len(tree) == 4


def test_E046_the_least_recently_used_leaf_goes_first(pool: BlockPool, tree: PrefixTree) -> None:
    store(pool, tree, "ab")
    store(pool, tree, "cd")
    tree.match(pages("ab"))  # a look-up is a use
    assert tree.evict(1) == 1
    assert (len(tree.match(pages("cd"))), len(tree.match(pages("ab")))) == (1, 2)
    assert tree.evict(2) == 2
    assert (len(tree.match(pages("cd"))), len(tree.match(pages("ab")))) == (0, 1)


def test_pages_in_use_and_those_before_them_stay(pool: BlockPool, tree: PrefixTree) -> None:
    blocks = store(pool, tree, "abc")
    pool.retain(blocks[:2])
    assert tree.evict(9) == 1
    assert tree.match(pages("abc")) == blocks[:2]
    pool.release(blocks[:2])
    assert tree.evict(9) == 2
    assert (pool.free_count, len(tree), tree.evicted_blocks) == (12, 0, 3)


def test_a_second_producer_changes_over_to_the_known_page(
    pool: BlockPool, tree: PrefixTree
) -> None:
    first, second = pool.allocate(1), pool.allocate(1)
    assert tree.insert(ROOT, b"a", first[0]) == first[0]
    assert tree.insert(ROOT, b"a", second[0]) == first[0]
    assert (pool.holders(first[0]), pool.holders(second[0])) == (2, 0)
    pool.release(first * 2)
    assert (pool.free_count, pool.idle_count) == (11, 1)


def test_untrusted_pages_are_forgotten_as_far_as_nobody_builds_on_them(
    pool: BlockPool, tree: PrefixTree
) -> None:
    store(pool, tree, "abx")
    blocks = store(pool, tree, "abcd")
    pool.retain(blocks)
    tree.forget(blocks)
    pool.release(blocks)
    assert tree.match(pages("abcd")) == blocks[:2]
    assert (pool.free_count, pool.idle_count) == (9, 3)


def test_a_forgotten_page_that_another_sequence_holds_stays(
    pool: BlockPool, tree: PrefixTree
) -> None:
    blocks = store(pool, tree, "ab")
    pool.retain(blocks)
    pool.retain(blocks)
    tree.forget(blocks)
    assert tree.match(pages("ab")) == blocks
