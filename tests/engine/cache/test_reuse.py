"""What the prefix cache reuses, and what it says when it does not."""

from __future__ import annotations

import pytest

from helexa.engine.outputs import CacheReport
from tests.engine.paged import Bench, alone

SYSTEM = [1, 2, 3, 4] * 5  # five pages
QUESTION = [10, 11, 12, 13, 14, 15, 16, 17, 18]


def ask(bench: Bench, prompt: list[int], **params: object) -> CacheReport:
    """Run a request to its end, check that the cache does not show, return the report."""
    request_id = bench.submit(prompt, **{"max_tokens": 3, **params})
    bench.run()
    assert bench.tokens(request_id) == alone(prompt, **{"max_tokens": 3, **params})[0]
    report = bench.outputs[request_id][0].cache
    assert report is not None
    return report


def test_E045_the_deepest_known_prefix_is_used() -> None:
    bench = Bench()
    ask(bench, [*SYSTEM[:8], 9])
    ask(bench, SYSTEM + QUESTION)
    assert ask(bench, [*SYSTEM, 50, 51, 52, 53, 54]).cached_tokens == 20


@pytest.mark.parametrize(("length", "cached"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_E045_an_identical_prompt_still_computes_a_token(length: int, cached: int) -> None:
    bench = Bench()
    ask(bench, QUESTION[:length])
    assert ask(bench, QUESTION[:length]).cached_tokens == cached < length


def test_E047_the_next_turn_reuses_question_and_answer() -> None:
    bench = Bench()
    request_id = bench.submit(SYSTEM + QUESTION, max_tokens=12, ignore_eos=True)
    bench.run()
    turn = SYSTEM + QUESTION + bench.tokens(request_id)
    report = ask(bench, turn + QUESTION)
    assert report == CacheReport((len(turn) - 1) // 4 * 4, "hit", None, 29)


def test_E048_equal_prompts_at_once_share_their_pages() -> None:
    bench = Bench(blocks=128)
    prompt = [(7 * i + 3) % 60 for i in range(200)]
    first, second, third = (bench.submit(prompt, max_tokens=10) for _ in range(3))
    bench.run()
    expected, _ = alone(prompt, max_tokens=10)
    assert all(bench.tokens(request_id) == expected for request_id in (first, second, third))
    for request_id in (second, third):
        assert bench.outputs[request_id][0].cache == CacheReport(196, "hit", None, 200)
    computed = sum(n for parts in bench.runner.steps for n, _ in parts)
    assert computed < 200 + 2 * 4 + 3 * 10


def test_a_page_is_shared_while_its_producer_still_runs() -> None:
    bench = Bench(prefill_chunk_tokens=8)
    bench.submit(SYSTEM + QUESTION, max_tokens=20, ignore_eos=True)
    for _ in range(6):
        bench.step()
    request_id = bench.submit([*SYSTEM, 30, 31], max_tokens=2)
    bench.step()
    report = bench.outputs[request_id][0].cache
    assert report is not None
    assert report.cached_tokens == 20


def test_twins_that_generate_the_same_end_up_with_the_same_pages() -> None:
    bench = Bench()
    ids = [bench.submit([1, 2, 3], max_tokens=30, ignore_eos=True) for _ in range(4)]
    for _ in range(25):
        bench.step()
    assert bench.core.status().kv_used_mb <= (7 + 4) * 0.25
    bench.run()
    assert len({tuple(bench.tokens(request_id)) for request_id in ids}) == 1
    assert bench.core.status().kv_used_mb == 0


@pytest.mark.parametrize(
    "config",
    [
        {"prefix_cache": False},
        {"prefix_cache_mb": 0},
        {"max_entries": 0},
        {"disabled": frozenset({"prefix_cache"})},
    ],
    ids=["off", "no bytes", "no entries", "switch"],
)
def test_E046_a_cache_without_room_is_off(config: dict[str, object]) -> None:
    bench = Bench(**config)
    for _ in range(2):
        assert ask(bench, SYSTEM) == CacheReport(0, "off")
    assert bench.core.status().cached_mb == 0
    assert bench.core.status().prefix.lookups == 0


# --- why not more --------------------------------------------------------------------------------


def test_a_prompt_that_went_another_way_says_where() -> None:
    bench = Bench()
    ask(bench, SYSTEM + QUESTION * 3)
    report = ask(bench, [*SYSTEM, 10, 11, 40, *(QUESTION * 3)])
    assert report == CacheReport(20, "diverged", diverged_at=22, nearest_tokens=47)


def test_as_much_of_a_prompt_as_was_computed_is_known_though_nobody_waited_for_the_rest() -> None:
    bench = Bench(prefill_chunk_tokens=32)
    request_id = bench.submit(SYSTEM + QUESTION * 9)
    bench.step()
    bench.core.abort(request_id)
    report = ask(bench, [*SYSTEM, 10, 11, 40, *(QUESTION * 3)])
    assert (report.reason, report.diverged_at, report.nearest_tokens) == ("diverged", 22, 32)


def test_E045_a_changed_first_page_is_new_but_says_where() -> None:
    bench = Bench()
    ask(bench, [7, 8, 9, *SYSTEM])
    assert ask(bench, [7, 8, 0, *SYSTEM]) == CacheReport(0, "new", 2, 23)
    assert ask(bench, [33, *SYSTEM]) == CacheReport(0, "new")


def test_a_rewritten_tail_is_still_a_hit() -> None:
    """The last tokens of a chat prompt, which open the answer, often change in the next turn."""
    bench = Bench()
    ask(bench, SYSTEM + QUESTION)
    report = ask(bench, SYSTEM + QUESTION[:-2] + [50, 51, 52, 53])
    assert report == CacheReport(24, "hit", diverged_at=27, nearest_tokens=29)


def test_evicted_pages_are_told_from_unknown_ones() -> None:
    bench = Bench(blocks=12)
    ask(bench, SYSTEM)
    ask(bench, [40] * 40)
    report = ask(bench, SYSTEM)
    assert (report.reason, report.diverged_at, report.nearest_tokens) == ("evicted", None, 20)
    assert report.cached_tokens < 16


def test_stats_add_up() -> None:
    bench = Bench()
    ask(bench, SYSTEM)
    missed = ask(bench, [50, *SYSTEM])
    ask(bench, SYSTEM)
    stats = bench.core.status().prefix
    assert (stats.lookups, stats.hits, stats.hit_tokens, stats.prompt_tokens) == (3, 1, 16, 61)
    assert stats.last_miss == missed


def test_a_preempted_request_reports_what_it_found_first() -> None:
    bench = Bench(blocks=16, prefill_chunk_tokens=4)
    first = bench.submit([1] * 20, max_tokens=20, ignore_eos=True)
    second = bench.submit([2] * 20, max_tokens=20, ignore_eos=True)
    bench.run()
    assert bench.core.status().preemptions > 0
    for request_id in (first, second):
        (report,) = [output.cache for output in bench.outputs[request_id] if output.cache]
        assert report.cached_tokens == 0
