"""Drafts of recurrent models: tried on a copy of a state, of which a wrong one leaves nothing."""

from __future__ import annotations

import random

import pytest

from tests.engine.cache.test_state_pages import Bench, chat
from tests.engine.drafting.knowing import Knowing

CHANCE = random.Random(22)
PROMPTS = [chat(*[CHANCE.randrange(1, 12) for _ in range(1 + n % 3)]) for n in range(24)]


@pytest.fixture(scope="module")
def expected() -> dict[int, list[int]]:
    return {n: Bench(snapshots=0).ask(prompt, seed=n)[0] for n, prompt in enumerate(PROMPTS)}


@pytest.mark.parametrize("lies", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("blocks", "chunk"), [(15, 7), (60, 64)], ids=["few", "many"])
def test_load_does_not_show(
    expected: dict[int, list[int]], lies: float, blocks: int, chunk: int
) -> None:
    """Conversations in parallel, leavers, too few pages, one spare state for all of them."""
    chance = random.Random(blocks + chunk)
    bench = Bench(blocks=blocks, chunk=chunk, guesses=Knowing(expected, lies))
    asked = {}
    for number, prompt in enumerate(PROMPTS):
        asked[bench.submit(prompt, seed=number)] = number
        for _ in range(chance.randrange(8)):
            bench.step()
        if number % 7 == 6:
            leaver = chance.choice(list(asked))
            bench.core.abort(leaver)
            del asked[leaver]
    while not bench.core.idle:
        bench.step()
    for id, number in asked.items():
        assert bench.tokens(id) == expected[number]
    status = bench.core.status()
    assert status.prefix.hits > 0
    assert status.kv_used_mb == 0
    assert status.drafts.drafted > 30
    assert (status.drafts.accepted > 0) == (lies < 1.0)


def test_what_was_right_is_computed_again_with_the_next_token(
    expected: dict[int, list[int]],
) -> None:
    """After a wrong draft the state is that of before it; a right one is not computed twice."""
    drafter = Knowing(expected)
    bench = Bench(guesses=drafter)
    bench.submit(PROMPTS[0], seed=0)
    while not bench.core.status().drafts.drafted:
        bench.step()
    drafter.lies = 1.0
    bench.step()
    drafter.lies = 0.0
    bench.step()
    shares = [step[0] for step in bench.runner.steps]
    right, wrong, after = shares[-3:]
    assert wrong[1] == right[1] + right[0]
    assert wrong[0] > 1
    assert after == (2, wrong[1])


def test_a_failed_step_leaves_nothing_behind(expected: dict[int, list[int]]) -> None:
    """States, copies of them too, may have gone on by then: whoever is not blamed starts over."""
    bench = Bench(chunk=64, guesses=Knowing({**expected, 2: []}, 0.2))
    ids = [bench.submit(PROMPTS[n], seed=n) for n in range(2)]
    while not bench.core.status().drafts.drafted:
        bench.step()
    late = bench.submit(chat(30))
    bench.runner.faults.append(ValueError("it broke"))
    bench.step()
    assert bench.answers[late][-1].error is not None
    while not bench.core.idle:
        bench.step()
    for n, id in enumerate(ids):
        assert bench.tokens(id) == expected[n]


def test_the_spare_state_survives_a_failure_among_drafts() -> None:
    """The youngest row is ended for want of memory; the other starts over and drafts again."""
    long = {n: Bench(snapshots=0).ask(PROMPTS[n], seed=n, max_tokens=60)[0] for n in range(2)}
    bench = Bench(chunk=64, guesses=Knowing(long))
    kept, blamed = (bench.submit(PROMPTS[n], seed=n, max_tokens=60) for n in range(2))
    while not bench.core.status().drafts.drafted:
        bench.step()
    bench.runner.faults.append(MemoryError("full"))
    bench.step()
    assert bench.answers[blamed][-1].error is not None
    assert bench.runner.copied[-1].what == "state"  # it was tried on a copy when it failed
    before = bench.core.status().drafts.drafted
    while not bench.core.idle:
        bench.step()
    assert bench.tokens(kept) == long[0]
    assert bench.core.status().drafts.drafted > before
