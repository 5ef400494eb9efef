"""`LLM` on the built-in model: what the SDK promises people who call it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import helexa
from helexa import LLM, Finish, Reasoning, SamplingParams, Text, ToolCall
from helexa.errors import EngineClosed, InvalidRequest
from tests.waiting import wait_until

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", dtype="float32", max_batch=4) as llm:
        yield llm


def test_chat_takes_a_string_or_messages(llm: LLM) -> None:
    short = llm.chat("What is 2 + 3?", temperature=0)
    long = llm.chat([{"role": "user", "content": "What is 2 + 3?"}], temperature=0)
    assert short.text == long.text
    assert "5" in short.text
    assert short.finish_reason == "stop"
    assert str(short) == short.text


def test_generate_continues_text_and_token_ids_alike(llm: LLM) -> None:
    prompt = "Once upon a time"
    text = llm.generate(prompt, temperature=0, max_tokens=12)
    ids = llm.generate(llm.tokenize(prompt), temperature=0, max_tokens=12)
    assert text.token_ids == ids.token_ids
    assert text.usage.completion_tokens == len(text.token_ids) > 0
    assert llm.detokenize(text.token_ids) == text.text


def test_e096_a_list_keeps_its_order_and_equals_single_calls(llm: LLM) -> None:
    prompts = [f"What is {a} + {b}?" for a, b in ((1, 2), (3, 4), (5, 6), (7, 8), (9, 1), (2, 2))]
    together = llm.chat(prompts, temperature=0)
    assert [g.text for g in together] == [llm.chat(p, temperature=0).text for p in prompts]


def test_token_ids_may_be_numpys_integers(llm: LLM) -> None:
    ids = llm.tokenize("Once upon a time")
    given: Any = [np.int64(id) for id in ids]
    expected = llm.generate(ids, temperature=0, max_tokens=4).token_ids
    assert llm.generate(given, temperature=0, max_tokens=4).token_ids == expected
    assert llm.generate([given], temperature=0, max_tokens=4)[0].token_ids == expected


def test_a_list_of_id_lists_is_a_batch_and_an_empty_list_is_no_prompt(llm: LLM) -> None:
    batch = llm.generate([llm.tokenize("One"), llm.tokenize("Two")], temperature=0, max_tokens=2)
    assert len(batch) == 2
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([], max_tokens=1)
    assert caught.value.code == "empty_prompt"


def test_a_stream_adds_up_to_the_whole_answer(llm: LLM) -> None:
    whole = llm.chat("Tell me a story.", temperature=0, max_tokens=60)
    events = list(llm.stream_chat("Tell me a story.", temperature=0, max_tokens=60))
    assert "".join(e.text for e in events if isinstance(e, Text)) == whole.text
    assert len(events) > 5


def test_e098_events_are_never_empty_and_finish_comes_once_and_last(llm: LLM) -> None:
    events = list(llm.stream_chat("hi", temperature=0, enable_thinking=True))
    assert [i for i, e in enumerate(events) if isinstance(e, Finish)] == [len(events) - 1]
    assert all(e.text for e in events if isinstance(e, Text | Reasoning))
    assert all(isinstance(e.text, str) for e in events)


def test_thinking_comes_apart_from_the_answer(llm: LLM) -> None:
    on = llm.chat("What is 12 + 7?", enable_thinking=True, temperature=0)
    off = llm.chat("What is 12 + 7?", enable_thinking=False, temperature=0)
    assert on.reasoning and not off.reasoning
    assert "19" in on.text and "19" in off.text
    assert on.usage.reasoning_tokens > 0 == off.usage.reasoning_tokens
    assert "<think>" not in on.text + on.reasoning


def test_tools_are_called_and_their_results_used(llm: LLM) -> None:
    messages: list[dict[str, object]] = [
        {"role": "user", "content": "What is the weather in Brno?"}
    ]
    called = llm.chat(messages, tools=[WEATHER], temperature=0)
    assert called.finish_reason == "tool_calls"
    (call,) = called.tool_calls
    assert (call.name, call.index) == ("get_weather", 0)
    assert '"Brno"' in call.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'}
    answer = llm.chat([*messages, called.message, result], tools=[WEATHER], temperature=0)
    assert "sunny" in answer.text


def test_tool_choice_none_hides_the_tools(llm: LLM) -> None:
    with_none = llm.render("hi", tools=[WEATHER], tool_choice="none")
    assert with_none == llm.render("hi")
    answer = llm.chat("hi", tools=[WEATHER], tool_choice="none", temperature=0)
    assert not answer.tool_calls


def test_tool_call_events_stream(llm: LLM) -> None:
    events = list(llm.stream_chat("What is the weather in Brno?", tools=[WEATHER], temperature=0))
    assert sum(isinstance(e, ToolCall) for e in events) == 1
    assert isinstance(events[-1], Finish) and events[-1].reason == "tool_calls"


def test_e065_a_seed_gives_the_same_text_alone_and_in_a_crowd(llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, seed=7, max_tokens=24)
    alone = llm.generate("Once", params)
    crowd = llm.generate(["Once", "There", "A", "The", "Once"], params)
    assert crowd[0].token_ids == crowd[4].token_ids == alone.token_ids
    assert llm.generate("Once", params, seed=8).token_ids != alone.token_ids


def test_n_gives_different_choices_that_a_seed_repeats(llm: LLM) -> None:
    first = llm.generate("Once", n=3, seed=1, temperature=1.5, max_tokens=16)
    again = llm.generate("Once", n=3, seed=1, temperature=1.5, max_tokens=16)
    assert [c.token_ids for c in first.choices] == [c.token_ids for c in again.choices]
    assert len({c.token_ids for c in first.choices}) == 3


def test_stop_strings_cut_the_text_and_end_the_request(llm: LLM) -> None:
    free = llm.chat("Count from 1 to 9.", temperature=0)
    cut = llm.chat("Count from 1 to 9.", temperature=0, stop=["5"])
    assert "5" in free.text
    assert cut.text == free.text[: free.text.index("5")]
    assert cut.finish_reason == "stop"
    assert cut.usage.completion_tokens < free.usage.completion_tokens


def test_logprobs_end_where_a_stop_string_begins(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=1)
    free = llm.generate("Once upon a time", params)  # a text without special tokens
    stop = free.text[6:9]
    cut = llm.generate("Once upon a time", params, stop=stop)
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.logprobs == free.logprobs[: len(cut.logprobs)]
    assert b"".join(p.bytes for p in cut.logprobs).decode().startswith(cut.text)


def test_min_tokens_holds_for_stop_strings_too(llm: LLM) -> None:
    free = llm.generate("Once", temperature=0, max_tokens=20, ignore_eos=True)
    stop = free.text[0]
    cut = llm.generate("Once", temperature=0, max_tokens=20, min_tokens=4, stop=stop)
    assert cut.token_ids[:4] == free.token_ids[:4]
    assert cut.text.startswith(llm.detokenize(cut.token_ids[:3]))


def test_n_without_a_seed_gives_choices_of_their_own(llm: LLM) -> None:
    answer = llm.generate("Once", n=3, temperature=1.5, max_tokens=16, ignore_eos=True)
    assert len({choice.token_ids for choice in answer.choices}) == 3
    assert all(choice.usage.completion_tokens == 16 for choice in answer.choices)


def test_nothing_asked_for_is_an_empty_answer(llm: LLM) -> None:
    answer = llm.chat("hi", max_tokens=0)
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "length")
    assert (answer.usage.completion_tokens, answer.usage.decode_ms) == (0, 0)
    assert answer.usage.prompt_tokens > 0


def test_logprobs_belong_to_the_visible_tokens(llm: LLM) -> None:
    answer = llm.chat("What is 2 + 3?", temperature=0, logprobs=3)
    assert b"".join(p.bytes for p in answer.logprobs).decode() == answer.text
    for position in answer.logprobs:
        assert position.logprob <= 0
        assert len(position.top) == 3
        assert position.top[0].logprob == max(t.logprob for t in position.top)
        assert type(position.top[0].id) is int and type(position.top[0].logprob) is float


def test_a_shared_prompt_is_computed_once(llm: LLM) -> None:
    text = " ".join(f"word{i}" for i in range(120))
    first = llm.generate(f"{text} alpha", max_tokens=1, temperature=0)
    second = llm.generate(f"{text} beta", max_tokens=1, temperature=0)
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= 0.9 * second.usage.prompt_tokens - 16
    assert second.usage.cache is not None and second.usage.cache.diverged_at is not None
    shared = len(llm.tokenize(text))
    assert shared <= second.usage.cache.diverged_at <= shared + 2
    assert llm.stats().prefix.hit_tokens >= second.usage.cached_tokens


def test_leaving_a_stream_aborts_it(llm: LLM) -> None:
    for _ in llm.stream("Once", max_tokens=1500, ignore_eos=True):
        break
    wait_until(lambda: llm.status.running == 0)
    kept = llm.stream("Once", max_tokens=1500, ignore_eos=True)
    next(kept)
    kept.close()
    assert list(kept) == []
    wait_until(lambda: llm.status.running == 0)
    with llm.stream("Once", max_tokens=1500, ignore_eos=True) as stream:
        next(stream)
    wait_until(lambda: llm.status.running == 0)


def test_a_stream_with_a_name_runs_on_until_it_is_closed(llm: LLM) -> None:
    named = llm.stream("Once", max_tokens=40, ignore_eos=True)
    for _ in named:
        break
    assert isinstance(list(named)[-1], Finish)


def test_threads_may_share_a_stream(llm: LLM) -> None:
    stream = llm.stream("Once", max_tokens=20, ignore_eos=True, temperature=0)
    with ThreadPoolExecutor(3) as pool:
        parts = [reader.result(20) for reader in [pool.submit(list, stream) for _ in range(3)]]
    events = [event for part in parts for event in part]
    assert sum(isinstance(event, Finish) for event in events) == 1
    whole = llm.generate("Once", max_tokens=20, ignore_eos=True, temperature=0)
    assert sum(len(event.text) for event in events) == len(whole.text)


def test_threads_share_one_model(llm: LLM) -> None:
    questions = [f"What is {n} + 1?" for n in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda q: llm.chat(q, temperature=0).text, questions))
    assert answers == [g.text for g in llm.chat(questions, temperature=0)]


def test_repr_tells_what_is_loaded(llm: LLM) -> None:
    shown = repr(llm)
    for part in ("'tiny'", "qwen3", "parameters", "float32 on cpu", "KV cache", "tokens"):
        assert part in shown


def test_counting_and_rendering(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    rendered = llm.render(messages)
    assert rendered.endswith("<|im_start|>assistant\n") or "<think>" in rendered
    assert llm.count_tokens(messages) == len(llm.tokenize(rendered, add_special_tokens=False))
    assert llm.chat(messages, max_tokens=1).usage.prompt_tokens == llm.count_tokens(messages)


def test_e096_close_in_mid_stream_raises_engine_closed() -> None:
    llm = LLM("tiny", max_batch=1)
    stream = llm.stream("Once", max_tokens=1800, ignore_eos=True)
    next(stream)
    llm.close()
    with pytest.raises(EngineClosed):
        list(stream)
    with pytest.raises(EngineClosed):
        llm.chat("hi")
    llm.close()
    assert repr(llm) == "LLM('tiny', closed)"


def the_new_thread(before: list[threading.Thread]) -> threading.Thread:
    """A model's own, by its name: others may start and end some meanwhile."""
    new = set(threading.enumerate()) - set(before)
    (own,) = [thread for thread in new if thread.name == "helexa-engine"]
    return own


def test_a_dropped_model_ends_its_thread() -> None:
    before = threading.enumerate()
    llm = LLM("tiny", max_batch=1)
    own = the_new_thread(before)
    assert own.is_alive()
    del llm
    wait_until(lambda: not own.is_alive())


def test_a_stream_keeps_its_model_until_it_is_read() -> None:
    before = threading.enumerate()
    stream = LLM("tiny", max_batch=1).stream("Once", max_tokens=8, ignore_eos=True)
    own = the_new_thread(before)
    events = list(stream)
    assert isinstance(events[-1], Finish) and events[-1].usage.completion_tokens == 8
    assert own.is_alive()
    del stream
    wait_until(lambda: not own.is_alive())


def test_lazy_names_are_listed_and_wrong_ones_refused() -> None:
    assert "LLM" in dir(helexa)
    with pytest.raises(AttributeError, match="LMM"):
        helexa.LMM  # noqa: B018  # the access is the test


def test_an_answer_that_ends_at_a_stop_string_counts_as_finished() -> None:
    with LLM("tiny", device="cpu") as own:
        answer = own.generate(
            "Once upon a time", temperature=0, stop="e", max_tokens=400, ignore_eos=True
        )
        assert answer.finish_reason == "stop"
        assert answer.usage.completion_tokens > 1
        wait_until(lambda: own.stats().tok_s_decode > 0)
        assert own.stats().running == 0
