"""The nearest known prompt is found by comparing memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from helexa.engine.cache.history import Nearest, PromptHistory, common_prefix


def ids(tokens: Iterable[int]) -> bytes:
    return array("i", tokens).tobytes()


@given(
    shared=st.lists(st.integers(0, 2**31 - 1), max_size=200),
    left=st.lists(st.integers(0, 1), max_size=50),
    right=st.lists(st.integers(0, 1), max_size=50),
)
def test_common_prefix_is_that_of_a_loop(
    shared: list[int], left: list[int], right: list[int]
) -> None:
    left, right = shared + left, shared + right
    pairs = zip(left, right, strict=False)
    expected = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
    assert common_prefix(ids(left), ids(right)) == expected


def test_tokens_that_differ_in_their_high_bytes_only_are_different() -> None:
    assert common_prefix(ids([1, 256]), ids([1, 65536])) == 1


def test_nearest_is_the_longest_common_beginning_then_the_shortest_prompt() -> None:
    history = PromptHistory()
    history.record(ids([1, 2, 3, 4]))
    history.record(ids([1, 2, 9]))
    history.record(ids([1, 2, 3, 4, 5, 6]))
    assert history.nearest(ids([1, 2, 3, 4, 7])) == Nearest(4, 4)
    assert history.nearest(ids([1, 2, 3, 4, 5, 7])) == Nearest(5, 6)
    assert history.nearest(ids([1, 2, 8])) == Nearest(2, 3)
    assert history.nearest(ids([5, 2])) is None
    assert PromptHistory().nearest(ids([1])) is None


def test_the_oldest_prompts_are_forgotten() -> None:
    history = PromptHistory(max_prompts=2, max_tokens=10)
    for start in (1, 2, 1, 3):  # 1 is used again, so 2 is the oldest
        history.record(ids([start] * 3))
    assert len(history) == 2
    assert history.nearest(ids([2])) is None
    history.record(ids([4] * 9))
    assert len(history) == 1
    history.record(ids([5] * 11))
    assert len(history) == 0
