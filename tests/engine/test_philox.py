"""The random numbers: the published vectors, and what a stream of them must look like."""

from __future__ import annotations

import pytest

from helexa.engine.philox import STRETCH, Words, philox4x32, uniform, uniforms

# Source: Random123, examples/kat_vectors, philox4x32 with 10 rounds.
VECTORS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_words(
    counter: Words, key: tuple[int, int], words: Words
) -> None:
    assert philox4x32(counter, key) == words


def test_uniform_is_in_range_and_even() -> None:
    numbers = [uniform(5, i) for i in range(10_000)]
    assert all(0.0 <= n < 1.0 for n in numbers)
    assert abs(sum(numbers) / len(numbers) - 0.5) < 0.01


def test_every_seed_and_index_has_its_own_number() -> None:
    seeds = (0, 1, 2**32, 2**63, 2**64 - 1)
    indices = (0, 1, 2**32, 2**32 + 1, 2**64 - 1)
    assert len({uniform(s, i) for s in seeds for i in indices}) == 25
    assert uniform(3, 4) == uniform(3, 4)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 40])
def test_many_numbers_are_those_of_each(count: int) -> None:
    seeds = (0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
    places = [(seeds[i % 6], (i * 2**59 + i) % 2**64) for i in range(count)]
    assert uniforms(places) == [uniform(seed, index) for seed, index in places]


@pytest.mark.parametrize("seed", [0, 5, STRETCH - 1, 2**32 + 7, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 3 * STRETCH - 5, 2**32 - 9, 2**64 - STRETCH - 20])
def test_numbers_made_ahead_are_those_of_each(seed: int, first: int) -> None:
    places = [(seed, first + i) for i in range(STRETCH + 20)]
    assert uniforms(places) == [uniform(*place) for place in places]
