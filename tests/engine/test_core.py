"""The core's promises, over a stand-in whose tokens depend on every page they are read through."""

from __future__ import annotations

import random

import pytest

from helexa.engine.outputs import CacheReport, Request
from helexa.engine.params import SamplingParams
from helexa.errors import (
    CapacityError,
    InvalidRequest,
    PromptTooLong,
    VisionUnsupported,
)
from tests.engine.paged import END, VOCAB, Bench, alone

PROMPTS = {
    "three": [1, 2, 3],
    "two": [4, 5],
    "page and one": [6, 7, 8, 9, 10],
    "long": [(7 * i + 3) % END for i in range(50)],
}


def end_at(prompt: list[int], index: int, **params: object) -> int:
    """The token a request samples at ``index``: naming it as a stop token ends the answer there."""
    return alone(prompt, max_tokens=index + 1, ignore_eos=True, **params)[0][index]


# --- what comes out ------------------------------------------------------------------------------


def test_E050_batched_is_as_alone_with_late_joiners_and_a_leaver() -> None:
    bench = Bench(max_batch=4)
    expected = {name: alone(prompt, max_tokens=12) for name, prompt in PROMPTS.items()}
    ids = {}
    for name, prompt in PROMPTS.items():
        ids[name] = bench.submit(prompt, max_tokens=12)
        bench.step()
    leaver = bench.submit([9] * 6, max_tokens=100)
    bench.step()
    bench.core.abort(leaver)
    bench.run()
    for name, request_id in ids.items():
        last = bench.last(request_id)
        assert (bench.tokens(request_id), last.finish_reason) == expected[name]
        assert last.completion_tokens == len(expected[name][0])


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_E051_the_chunk_size_does_not_show(chunk: int) -> None:
    bench = Bench(prefill_chunk_tokens=chunk)
    request_id = bench.submit(PROMPTS["long"], max_tokens=8, temperature=1.0, seed=5)
    bench.run()
    expected, _ = alone(PROMPTS["long"], max_tokens=8, temperature=1.0, seed=5)
    assert bench.tokens(request_id) == expected
    prompt_steps = [sum(n for n, _ in parts) for parts in bench.runner.steps][: -(-50 // chunk)]
    assert sum(prompt_steps) == 50
    assert max(prompt_steps) <= chunk


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
def test_E052_preempted_is_as_alone(cached: bool) -> None:
    """A pool for one and a half sequences, seeded sampling."""
    params = {"max_tokens": 40, "temperature": 1.0, "ignore_eos": True, "min_tokens": 40}
    bench = Bench(blocks=18, max_batch=4, prefix_cache=cached)  # 12 blocks each at the end
    first = bench.submit([1, 2, 3, 4, 5, 6, 7, 8], seed=1, **params)
    second = bench.submit([9, 2, 3, 4, 5, 6, 7, 8], seed=2, **params)
    bench.run()
    assert bench.core.status().preemptions > 0
    assert bench.tokens(first) == alone([1, 2, 3, 4, 5, 6, 7, 8], seed=1, **params)[0]
    assert bench.tokens(second) == alone([9, 2, 3, 4, 5, 6, 7, 8], seed=2, **params)[0]
    assert bench.core.status().kv_used_mb == 0


def test_random_load_on_a_small_pool_is_as_alone() -> None:
    """Ragged requests, arrivals at random, aborts, preemption: each gets what it gets alone."""
    chance = random.Random(3)
    bench = Bench(blocks=24, budget=20, max_batch=6, prefill_chunk_tokens=9)
    asked = {}
    for number in range(40):
        common = [3, 1, 4, 1, 5, 9, 2, 6, 5][: chance.randrange(10)]
        prompt = common + [chance.randrange(END) for _ in range(chance.randint(1, 20))]
        params = {"max_tokens": chance.randint(1, 25), "seed": number}
        params["temperature"] = chance.choice([0, 1.0])
        asked[bench.submit(prompt, **params)] = (prompt, params)
        for _ in range(chance.randrange(6)):
            bench.step()
        if chance.random() < 0.15:
            gone = chance.choice(list(asked))
            bench.core.abort(gone)
            del asked[gone]
    bench.run()
    status = bench.core.status()
    assert status.preemptions > 0
    assert status.prefix.hits > 0
    assert status.prefix.evicted_blocks > 0
    for request_id, (prompt, params) in asked.items():
        last = bench.last(request_id)
        assert (bench.tokens(request_id), last.finish_reason) == alone(prompt, **params)


@pytest.mark.parametrize("switch", ["batching", "prefix_cache"])
def test_E099_a_switch_does_not_show(switch: str) -> None:
    plain, switched = Bench(), Bench(disabled=frozenset({switch}))
    for bench in (plain, switched):
        for prompt in [*PROMPTS.values(), PROMPTS["long"]]:
            bench.submit(prompt, max_tokens=10)
        bench.run()
    for request_id in plain.outputs:
        assert plain.tokens(request_id) == switched.tokens(request_id)
    if switch == "batching":
        assert all(len(parts) == 1 for parts in switched.runner.steps)
    else:
        assert switched.core.status().cached_mb == 0


@pytest.mark.parametrize("count", [1, 7, 19])
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "seeded"])
def test_an_answer_continues_where_an_earlier_core_left_it(temperature: float, count: int) -> None:
    params: dict[str, object] = {
        "max_tokens": 20,
        "temperature": temperature,
        "seed": 11,
        "repetition_penalty": 1.3,
        "repeat_last_n": 5,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.4,
        "logprobs": 1,
        "ignore_eos": True,
    }
    whole, reason = alone(PROMPTS["three"], **params)
    bench = Bench()
    first = bench.submit(PROMPTS["three"], **params)
    while len(bench.tokens(first)) < count:
        bench.step()
    other = Bench(prefill_chunk_tokens=4)
    second = other.submit(PROMPTS["three"], generated=bench.tokens(first), **params)
    other.run()
    assert bench.tokens(first) + other.tokens(second) == whole
    assert other.last(second).completion_tokens == 20
    assert other.last(second).finish_reason == reason == "length"
    told = [position.logprob for output in other.outputs[second] for position in output.logprobs]
    bench.run()
    last = [position.logprob for output in bench.outputs[first] for position in output.logprobs]
    assert told == last[count:]


def test_what_an_earlier_core_generated_is_no_measure_of_this_ones_speed() -> None:
    prompt, tokens = [1] * 140, [2] * 90
    whole, continued = Bench(), Bench()
    whole.submit(prompt, max_tokens=10, ignore_eos=True)
    continued.submit(prompt, generated=tokens, max_tokens=100, ignore_eos=True)
    for bench in (whole, continued):
        bench.run()
    speeds = [bench.core.status().tok_s_decode for bench in (whole, continued)]
    assert speeds[0] == pytest.approx(speeds[1])
    assert continued.core.status().tok_s_prefill == 0


def test_an_answer_that_was_complete_needs_no_step() -> None:
    bench = Bench()
    request_id = bench.submit([1, 2], generated=(5, 6, 7), max_tokens=3)
    bench.run()
    assert (bench.tokens(request_id), bench.last(request_id).completion_tokens) == ([], 3)
    assert not bench.runner.steps


# --- ends ----------------------------------------------------------------------------------------


def test_E056_max_tokens() -> None:
    bench = Bench()
    none, one = bench.submit([1, 2], max_tokens=0), bench.submit([1, 2], max_tokens=1)
    bench.step()
    assert [len(parts) for parts in bench.runner.steps] == [1]
    bench.run()
    assert (bench.tokens(none), bench.last(none).finish_reason) == ([], "length")
    assert (len(bench.tokens(one)), bench.last(one).finish_reason) == (1, "length")
    assert bench.last(none).cache is None


@pytest.mark.parametrize(
    ("longest", "config"),
    [(30, {"max_context": 30}), (256, {}), (64, {"blocks": 16})],
    ids=["max_context", "model", "pool"],
)
def test_E056_the_limit_ends_an_answer(longest: int, config: dict[str, int]) -> None:
    bench = Bench(**{"blocks": 80, **config})
    request_id = bench.submit([1] * 10, max_tokens=8192, ignore_eos=True)
    bench.run()
    assert len(bench.tokens(request_id)) == longest - 10
    assert bench.last(request_id).finish_reason == "length"


def test_E057_an_end_token_first_is_an_empty_answer() -> None:
    bench = Bench()
    stop = end_at(PROMPTS["three"], 0)
    request_id = bench.submit(PROMPTS["three"], stop_token_ids=[stop])
    bench.run()
    (output,) = bench.outputs[request_id]
    assert (output.token_ids, output.finish_reason, output.completion_tokens) == ((), "stop", 0)
    assert output.cache is not None
    assert output.timing is not None


def test_E058_end_tokens_stop_and_are_not_emitted() -> None:
    bench = Bench()
    stop = end_at(PROMPTS["three"], 4)
    request_id = bench.submit(PROMPTS["three"], stop_token_ids=[stop], ignore_eos=True)
    bench.run()
    assert bench.last(request_id).finish_reason == "stop"
    assert stop not in bench.tokens(request_id)


def test_E058_ignore_eos_runs_to_the_limit() -> None:
    biased = {"logit_bias": {END: 100}, "max_tokens": 5}
    assert alone([1, 2], **biased) == ([], "stop")
    assert alone([1, 2], ignore_eos=True, **biased) == ([END] * 5, "length")


def test_min_tokens_blocks_end_tokens_until_it_is_reached() -> None:
    tokens, reason = alone([1, 2], logit_bias={END: 100}, min_tokens=3, max_tokens=9)
    assert (len(tokens), reason) == (3, "stop")
    assert END not in tokens


def test_every_request_ends_once() -> None:
    bench = Bench(blocks=20, max_batch=3)
    for prompt in list(PROMPTS.values()) * 2:
        bench.submit(prompt, max_tokens=6)
    bench.run()
    for outputs in bench.outputs.values():
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert outputs[0].cache is not None
        assert outputs[0].cached_tokens == outputs[0].cache.cached_tokens
        assert outputs[-1].cached_tokens is None or len(outputs) == 1
        assert not any(output.cache for output in outputs[1:])


# --- refusals ------------------------------------------------------------------------------------


def test_E053_refusals() -> None:
    bench = Bench(blocks=10)
    with pytest.raises(CapacityError) as capacity:
        bench.submit([1] * 40)
    assert (capacity.value.required_mb, capacity.value.budget_mb) == (3, 2)
    bench.submit([1] * 39)
    with pytest.raises(InvalidRequest, match="no tokens") as empty:
        bench.submit([])
    assert empty.value.code == "empty_prompt"
    with pytest.raises(PromptTooLong) as over_cap:
        bench.submit([1] * 9, cap=8)
    assert (over_cap.value.prompt_len, over_cap.value.max) == (9, 8)
    bench.submit([1] * 8, cap=8)
    with pytest.raises(PromptTooLong) as too_long:
        bench.submit([1] * 256)
    assert too_long.value.max == 255


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([1, VOCAB], {}, "prompt"),
        ([-1], {}, "prompt"),
        (["a"], {}, "prompt"),
        ([1.5], {}, "prompt"),
        ([2**40], {}, "prompt"),
        ([1], {"generated": (VOCAB,)}, "generated"),
        ([1], {"stop_token_ids": [VOCAB]}, "stop_token_ids"),
    ],
    ids=["beyond", "negative", "text", "fraction", "huge", "generated", "stop"],
)
def test_ids_outside_the_vocabulary_are_refused(
    prompt: list[int], params: dict[str, object], param: str
) -> None:
    bench = Bench()
    with pytest.raises(InvalidRequest) as refusal:
        bench.submit(prompt, **params)
    assert refusal.value.param == param
    assert bench.core.idle
    assert bench.submit([1]) == 1  # a host numbers requests in the same way, and before it knows


def test_images_are_refused_by_a_model_without_a_tower() -> None:
    with pytest.raises(VisionUnsupported):
        Bench().core.submit(Request((1, 2), SamplingParams(), images=(object(),)))


# --- fair shares ---------------------------------------------------------------------------------


def test_E054_a_long_newcomer_does_not_stall_a_stream() -> None:
    bench = Bench(blocks=5100, longest=20_100, prefill_chunk_tokens=512)
    stream = bench.submit([1, 2, 3], max_tokens=60, ignore_eos=True)
    bench.step()
    long = [(3 * i) % END for i in range(20_000)]
    newcomer = bench.submit(long, max_tokens=4, ignore_eos=True)
    while not bench.outputs[newcomer]:
        emitted = {output.id for output in bench.step()}
        assert stream in emitted
        assert sum(n for n, _ in bench.runner.steps[-1]) <= 1 + 512
    assert len(bench.tokens(stream)) == 1 + 40


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    bench = Bench(blocks=40, max_batch=3, prefill_chunk_tokens=8)
    for _ in range(6):
        bench.submit([5] * 6, max_tokens=30, ignore_eos=True)
    big = bench.submit([7] * 120, max_tokens=2, ignore_eos=True)
    late = [bench.submit([8] * 6, max_tokens=30, ignore_eos=True) for _ in range(6)]
    while not bench.outputs[big]:
        bench.step()
    assert not any(bench.outputs[request_id] for request_id in late)


# --- status --------------------------------------------------------------------------------------


def test_status_counts_sequences_pages_and_time() -> None:
    bench = Bench(blocks=20, budget=16, max_batch=1)
    bench.submit([1] * 9, max_tokens=3)
    bench.submit([2] * 9, max_tokens=3)
    bench.step()
    status = bench.core.status()
    assert (status.running, status.waiting, status.steps) == (1, 1, 1)
    assert (status.kv_used_mb, status.kv_budget_mb, status.free_mb) == (0.75, 4.0, 3.25)
    assert status.kv_capacity_tokens == 64
    assert 0 < status.overhead_ms < status.last_step_ms
    assert status.overhead_ms == pytest.approx(status.last_step_ms - 0.5)
    bench.run()
    assert bench.core.status().cached_mb == 4 * 0.25  # each filled two pages


def test_timing_is_that_of_the_clock() -> None:
    bench = Bench(max_batch=1)
    first = bench.submit([1] * 5, max_tokens=3, ignore_eos=True)
    second = bench.submit([2] * 5, max_tokens=1, ignore_eos=True)
    bench.run()
    earlier, later = bench.last(first).timing, bench.last(second).timing
    assert earlier is not None
    assert later is not None
    assert earlier.prefill_ms == pytest.approx(later.prefill_ms)
    assert earlier.decode_ms > later.decode_ms == 0
    assert later.queue_ms > earlier.decode_ms
    every = [output.timing for output in bench.outputs[first]]
    assert [t and t.prefill_ms for t in every] == [pytest.approx(earlier.prefill_ms)] * 3
    assert [t and t.decode_ms for t in every] == sorted(t.decode_ms for t in every if t)


def test_speed_is_of_computed_prompt_tokens() -> None:
    bench = Bench(blocks=80)
    for _ in range(2):
        bench.submit([1] * 140, max_tokens=2, ignore_eos=True)
        bench.run()
    status = bench.core.status()
    assert status.tok_s_prefill > 1000  # the cached one, of four tokens, is not a sample
    assert status.tok_s_decode > 0


def test_reports_go_out_with_the_first_token() -> None:
    bench = Bench()
    cold = bench.submit([1] * 20, max_tokens=2)
    bench.run()
    warm = bench.submit([1] * 20, max_tokens=2)
    bench.run()
    assert bench.outputs[cold][0].cache == CacheReport(0, "new")
    assert bench.outputs[warm][0].cache == CacheReport(16, "hit", None, 20)
