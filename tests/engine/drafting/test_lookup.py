"""The index finds what a plain search through all places finds, however it was fed."""

from __future__ import annotations

import time
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.engine.drafting.lookup import (
    CANDIDATES,
    LONGEST,
    SHORTEST,
    LookupDrafter,
    LookupIndex,
)
from helexa.engine.params import GenerationDefaults, SamplingParams, resolve
from helexa.engine.sequence import Sequence

PARAMS = resolve(SamplingParams(seed=1), GenerationDefaults(), 8)
TEXT = st.lists(st.integers(0, 2), max_size=60)


def searched(tokens: list[int], count: int) -> list[int]:
    """What `LookupIndex.propose` promises, by looking everywhere."""
    places = [
        place
        for place in range(SHORTEST, len(tokens))
        if tokens[place - SHORTEST : place] == tokens[-SHORTEST:]
    ][-CANDIDATES:]
    for length in range(LONGEST, SHORTEST - 1, -1):
        for place in reversed(places):
            if place >= length and tokens[place - length : place] == tokens[-length:]:
                grown = list(tokens)
                for at in range(place, place + count):
                    grown.append(grown[at])
                return grown[len(tokens) :]
    return []


@given(TEXT, st.lists(st.integers(1, 9), max_size=20), st.integers(0, 12))
@settings(max_examples=200)
def test_it_is_a_search(tokens: list[int], pieces: list[int], count: int) -> None:
    """Also where only some of the lengths that a text had on its way were ever asked about."""
    index, end = LookupIndex(), 0
    for piece in [*pieces, len(tokens)]:
        end = min(len(tokens), end + piece)
        assert index.propose(array("i", tokens[:end]), count) == searched(tokens[:end], count)


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 1], []),
        ([1, 1, 1], [1, 1, 1, 1]),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 4, 1, 2], [3, 4, 1, 2]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2, 4]),  # the latest of two equally long ones
        ([9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], [3, 8, 1, 2]),  # a longer one before a later one
        ([5, 6, 7, 5, 6], [7, 5, 6, 7]),  # a copy that runs into its own end
    ],
)
def test_examples(tokens: list[int], draft: list[int]) -> None:
    assert LookupIndex().propose(tokens, 4) == draft


def test_large_ids_do_not_meet() -> None:
    high = 2**31 - 1
    assert LookupIndex().propose([high, 0, 5, 0, high, 6, high, 0], 1) == [5]


def test_a_long_text_costs_microseconds() -> None:
    """32k tokens of three kinds: every pair stands in thousands of places."""
    tokens = array("i", [(i * i + i // 7) % 3 for i in range(32768)])
    index = LookupIndex()
    index.propose(tokens, 4)
    times = []
    for token in range(50):
        tokens.append(token % 3)
        begin = time.perf_counter()
        index.propose(tokens, 4)
        times.append(time.perf_counter() - begin)
    assert min(times) < 200e-6


def test_sequences_do_not_mix() -> None:
    drafter = LookupDrafter()
    one, other = (
        Sequence.of(n, prompt, (), PARAMS, max_new=9, ends=frozenset())
        for n, prompt in enumerate([(1, 2, 3, 1, 2), (1, 2, 4, 1, 2)])
    )
    assert drafter.propose(one, 1) == [3]
    assert drafter.propose(other, 1) == [4]
    drafter.drop(one)
    drafter.drop(one)
    assert drafter.propose(one, 2) == [3, 1]
