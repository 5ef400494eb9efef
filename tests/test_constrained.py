"""Constrained output on the built-in model: whatever it would rather say, the answer fits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from helexa import LLM, AsyncLLM, Finish, Reasoning, Text
from helexa.errors import InvalidRequest, UnsupportedGrammar
from tests.test_llm import WEATHER
from tests.text.grammar.schemas import random_schema

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add_numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


def as_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", dtype="float32", max_batch=8) as llm:
        yield llm


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_E086_a_hundred_random_schemas_at_any_temperature(llm: LLM, first: int) -> None:
    """Greedy, at 1 and at 2 in turn, eight at a time beside each other."""

    def answer(seed: int) -> str:
        return llm.chat(
            f"Tell me about number {seed}.",
            response_format=as_format(random_schema(seed)),
            temperature=seed % 3,
            seed=seed,
            max_tokens=180,
        ).text

    seeds = range(first, first + 20)
    with ThreadPoolExecutor(8) as pool:
        for seed, text in zip(seeds, pool.map(answer, seeds), strict=True):
            jsonschema.validate(json.loads(text), random_schema(seed))


def test_N072_an_object_of_any_kind(llm: LLM) -> None:
    for temperature in (0, 1, 2):
        answer = llm.chat(
            "Give me some JSON.",
            response_format={"type": "json_object"},
            temperature=temperature,
            seed=1,
            max_tokens=60,
        )
        assert isinstance(json.loads(answer.text), dict)
        assert answer.finish_reason in ("stop", "length")


def test_an_answer_that_is_complete_has_stopped(llm: LLM) -> None:
    """Without the step that would have drawn the end token, and also where that is ignored."""
    asked = {"response_format": as_format(PERSON), "temperature": 0}
    plain = llm.chat("Who are you?", **asked)
    assert plain.finish_reason == "stop"
    assert llm.detokenize(plain.token_ids) == plain.text
    assert llm.chat("Who are you?", ignore_eos=True, **asked).text == plain.text


def test_an_answer_that_runs_out_of_tokens_says_so_and_still_fits(llm: LLM) -> None:
    endless = {"type": "array", "items": {"type": "string"}, "minItems": 2}
    answer = llm.chat("Hi", response_format=as_format(endless), temperature=1.5, max_tokens=50)
    jsonschema.validate(json.loads(answer.text), endless)
    assert answer.finish_reason == "length"
    assert len(answer.token_ids) <= 50


def test_stop_strings_and_biases_still_apply(llm: LLM) -> None:
    asked = {"response_format": as_format(PERSON), "temperature": 0}
    cut = llm.chat("Who are you?", stop='"age"', **asked)
    assert cut.finish_reason == "stop" and '"age"' not in cut.text
    assert llm.chat("Who are you?", **asked).text.startswith(cut.text)
    (brace,) = llm.tokenize("{", add_special_tokens=False)
    biased = llm.chat("Who are you?", logit_bias={brace: -100}, **asked)
    jsonschema.validate(json.loads(biased.text), PERSON)


def test_logprobs_are_the_models_own(llm: LLM) -> None:
    answer = llm.chat("hi", response_format=as_format(PERSON), temperature=0, logprobs=2)
    assert b"".join(p.bytes for p in answer.logprobs).decode() == answer.text
    assert any(position.id != position.top[0].id for position in answer.logprobs)


def test_reasoning_is_free_and_the_answer_after_it_is_not(llm: LLM) -> None:
    question = "What is 12 + 7?"
    free = llm.chat(question, enable_thinking=True, temperature=0)
    held = llm.chat(
        question, enable_thinking=True, temperature=0, response_format=as_format(PERSON)
    )
    assert held.reasoning == free.reasoning != ""
    jsonschema.validate(json.loads(held.text), PERSON)
    called = llm.chat(
        question, enable_thinking=True, temperature=0, tools=[WEATHER], tool_choice="required"
    )
    assert called.reasoning and [call.name for call in called.tool_calls] == ["get_weather"]
    assert called.text == ""


def test_a_stream_of_a_constrained_answer_adds_up(llm: LLM) -> None:
    asked = {"response_format": as_format(PERSON), "temperature": 0, "enable_thinking": True}
    events = list(llm.stream_chat("What is 12 + 7?", **asked))
    whole = llm.chat("What is 12 + 7?", **asked)
    assert "".join(e.text for e in events if isinstance(e, Text)) == whole.text
    assert "".join(e.text for e in events if isinstance(e, Reasoning)) == whole.reasoning
    assert isinstance(events[-1], Finish)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_event_loop_gets_the_same() -> None:
    async with AsyncLLM("tiny", dtype="float32") as llm:
        answer = await llm.chat("Hi", response_format=as_format(PERSON), temperature=0)
        jsonschema.validate(json.loads(answer.text), PERSON)
        called = llm.chat("Hi", tools=[ADD], tool_choice="add_numbers", parallel_tool_calls=False)
        assert [call.name for call in (await called).tool_calls] == ["add_numbers"]
        with pytest.raises(UnsupportedGrammar):
            await llm.chat("Hi", response_format=as_format({"not": {}}))


# --- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_N072_a_tool_that_must_be_called_is(llm: LLM, temperature: float) -> None:
    """A story asks for no tool, and gets one all the same."""
    named = {"type": "function", "function": {"name": "add_numbers"}}
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, ADD)}
    for choice in ("required", "add_numbers", named):
        answer = llm.chat(
            "Tell me a story.",
            tools=[WEATHER, ADD],
            tool_choice=choice,
            temperature=temperature,
            seed=4,
            max_tokens=200,
        )
        assert answer.tool_calls and not answer.text
        for call in answer.tool_calls:
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])
        if choice != "required":
            assert [call.name for call in answer.tool_calls] == ["add_numbers"]
        assert answer.finish_reason in ("tool_calls", "length")


def test_without_parallel_calls_the_first_one_is_the_last(llm: LLM) -> None:
    for choice in ("auto", "required"):
        answer = llm.chat(
            "What is the weather in Brno?",
            tools=[WEATHER],
            tool_choice=choice,
            parallel_tool_calls=False,
            temperature=0,
        )
        assert [call.arguments for call in answer.tool_calls] == ['{"city":"Brno"}']
        assert answer.finish_reason == "tool_calls"
        assert llm.detokenize(answer.token_ids[-1:]) == "</tool_call>"


def test_a_format_leaves_the_choice_to_call_a_tool(llm: LLM) -> None:
    asked = {"tools": [WEATHER], "response_format": as_format(PERSON), "temperature": 0}
    called = llm.chat("What is the weather in Brno?", **asked)
    assert [call.arguments for call in called.tool_calls] == ['{"city":"Brno"}']
    jsonschema.validate(json.loads(llm.chat("Hi", tool_choice="none", **asked).text), PERSON)


# --- those who do not ask ------------------------------------------------------------------------


def test_rows_without_a_grammar_get_what_they_get_alone(llm: LLM) -> None:
    def ask(at: int) -> tuple[int, ...]:
        wanted = {"response_format": as_format(random_schema(at))} if at % 2 else {}
        return llm.chat(
            f"Tell me about {at}.", temperature=1, seed=at, max_tokens=40, **wanted
        ).token_ids

    alone = [ask(at) for at in range(16)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == alone


FREE = """
import sys
import helexa

tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
with helexa.LLM("tiny") as llm:
    llm.chat("hi", max_tokens=4, tools=[tool], parallel_tool_calls=False)
    llm.chat("hi", max_tokens=4, response_format={"type": "text"})
    llm.generate("hi", max_tokens=4)
    assert "llguidance" not in sys.modules, "a request without a grammar loaded the library"
    llm.chat("hi", max_tokens=20, response_format={"type": "json_object"})
    assert "llguidance" in sys.modules
"""


def test_who_does_not_ask_does_not_pay() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREE], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "code", "said"),
    [
        ({"response_format": "json"}, InvalidRequest, "invalid_value", "json_object"),
        ({"response_format": {}}, InvalidRequest, "invalid_value", "type"),
        (
            {"response_format": {"type": "xml"}},
            UnsupportedGrammar,
            "unsupported_parameter",
            "'xml'",
        ),
        ({"response_format": {"type": "json_schema"}}, InvalidRequest, "invalid_value", "schema"),
        (
            {"response_format": as_format({"uniqueItems": True})},
            UnsupportedGrammar,
            "unsupported_parameter",
            "'uniqueItems'",
        ),
        ({"tool_choice": "required"}, InvalidRequest, "invalid_value", "no tools"),
        ({"tool_choice": "sum", "tools": [ADD]}, InvalidRequest, "invalid_value", "add_numbers"),
        ({"parallel_tool_calls": "no"}, InvalidRequest, "invalid_value", "True or False"),
    ],
)
def test_a_mistake_is_explained(
    llm: LLM, options: dict[str, Any], error: type[InvalidRequest], code: str, said: str
) -> None:
    with pytest.raises(error) as caught:
        llm.chat("hi", **options)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert caught.value.param == next(iter(options))
    assert said in str(caught.value)
