"""Drafts behind the SDK: they change when an answer is there, and nothing of what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import helexa
from helexa.engine.drafting import drafts
from helexa.engine.drafting.costs import StepCosts
from helexa.engine.outputs import DraftCounts
from helexa.errors import InvalidRequest

REPEAT = "Repeat exactly: red green blue red green blue red green blue"
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm() -> Iterator[helexa.LLM]:
    with helexa.LLM("tiny", dtype="float32", drafter="lookup") as model:
        yield model


def both(llm: helexa.LLM, prompt: str = REPEAT, **asked: object) -> helexa.Generation:
    """The answer with drafts, after comparing it with the one without."""
    plain = llm.chat(prompt, speculative=False, **{**GREEDY, **asked})  # type: ignore[arg-type]  # any field
    drafted = llm.chat(prompt, **{**GREEDY, **asked})  # type: ignore[arg-type]  # any field
    assert plain.usage.drafts is None
    for name in ("text", "reasoning", "tool_calls", "finish_reason", "token_ids"):
        assert getattr(drafted, name) == getattr(plain, name), name
    assert drafted.usage.completion_tokens == plain.usage.completion_tokens
    assert [(entry.id, entry.token) for entry in drafted.logprobs] == [
        (entry.id, entry.token) for entry in plain.logprobs
    ]
    values = [entry.logprob for entry in plain.logprobs]
    assert [entry.logprob for entry in drafted.logprobs] == pytest.approx(values, abs=1e-4)
    return drafted


def test_an_answer_that_quotes_is_drafted(llm: helexa.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a draft costs little: what it costs on a busy machine is another matter."""
    monkeypatch.setattr(StepCosts, "of_drafts", lambda self, rows, most: (0.0,) + (0.1,) * most)
    answer = both(llm, max_tokens=200)
    counts = answer.usage.drafts
    assert counts is not None
    assert counts.acceptance > 0.8
    assert counts.accepted > 60
    total = llm.stats().drafts
    assert total.drafted >= counts.drafted


@pytest.mark.parametrize(
    "stop", ["blue", "green bl", "e red gr", " red", "blue red green blue red"]
)
@pytest.mark.parametrize("min_tokens", [0, 37])
def test_a_stop_string_within_a_draft(llm: helexa.LLM, stop: str, min_tokens: int) -> None:
    answer = both(llm, max_tokens=90, stop=stop, min_tokens=min_tokens)
    assert answer.finish_reason == "stop"
    if (counts := answer.usage.drafts) is not None:
        assert counts.accepted < answer.usage.completion_tokens


def test_no_more_is_accepted_than_an_answer_has(
    llm: helexa.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its drafts are, and wherever it ends within one."""
    monkeypatch.setattr(drafts, "draft_length", lambda pace, costs, redone=False: len(costs) - 1)
    monkeypatch.setattr(StepCosts, "of_drafts", lambda self, rows, most: (0.0,) * (most + 1))
    ended = 0
    for number in range(1, 16):
        stop = "red green blue red green blue red green blue"[:number]
        asked = {"max_tokens": 60, "stop": stop, **GREEDY, "ignore_eos": False}
        for prompt in (REPEAT, "a a a a a a a a"):
            usage = llm.generate(prompt, **asked).usage  # type: ignore[arg-type]  # any field
            if usage.drafts is not None:
                ended += usage.completion_tokens < 60
                assert usage.drafts.accepted <= usage.completion_tokens - 1
    assert ended > 2


@pytest.mark.parametrize("limit", range(20, 32))
def test_a_limit_within_a_draft(llm: helexa.LLM, limit: int) -> None:
    """Also where a stop string lies in front of it in the same step."""
    assert both(llm, max_tokens=limit).usage.completion_tokens == limit
    both(llm, max_tokens=limit, stop="green blue red green blue red green blue red")


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.7, "seed": 6, "top_p": 0.9, "top_k": 20, "logprobs": 2},
        {"repetition_penalty": 1.05, "presence_penalty": 0.2},
        {"ignore_eos": False},
    ],
    ids=["drawn", "narrowly", "penalties", "end tokens"],
)
@pytest.mark.parametrize("prompt", [REPEAT, "Count from 1 to 20."])
def test_other_ways_to_choose(llm: helexa.LLM, prompt: str, asked: dict[str, object]) -> None:
    both(llm, prompt, max_tokens=80, **asked)


def test_constrained_answers_have_no_drafts(llm: helexa.LLM) -> None:
    answer = llm.chat(REPEAT, response_format={"type": "json_object"}, max_tokens=40, temperature=0)
    assert answer.usage.drafts is None


def test_streams_and_crowds(llm: helexa.LLM) -> None:
    alone = both(llm, max_tokens=60)
    events = list(llm.stream_chat(REPEAT, max_tokens=60, **GREEDY))
    assert "".join(event.text for event in events) == alone.text
    crowd = llm.chat([[{"role": "user", "content": REPEAT}]] * 3, max_tokens=60, **GREEDY)
    assert [answer.text for answer in crowd] == [alone.text] * 3


def test_a_request_may_ask_for_drafts_of_an_engine_without_a_drafter() -> None:
    with helexa.LLM("tiny", dtype="float32") as llm:
        params = helexa.SamplingParams(max_tokens=200, **GREEDY)  # type: ignore[arg-type]  # any field
        assert llm.chat(REPEAT, params).usage.drafts is None
        asked = llm.chat(REPEAT, replace(params, speculative=True)).usage.drafts
        assert asked is not None
        assert asked.accepted > 0
        assert llm.stats().drafts == asked


def test_another_process_counts_them_too() -> None:
    with helexa.LLM("tiny", dtype="float32", host="process", drafter="lookup") as llm:
        counts = llm.chat(REPEAT, max_tokens=200, **GREEDY).usage.drafts
        assert isinstance(counts, DraftCounts)
        assert counts.accepted > 0


@pytest.mark.parametrize(
    ("option", "value"), [("drafter", "Qwen/Qwen3-0.6B"), ("drafter", ""), ("draft_len", -1)]
)
def test_what_cannot_draft_is_refused(option: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        helexa.LLM("tiny", **{option: value})  # type: ignore[arg-type]  # what is wrong
    assert caught.value.param == option
