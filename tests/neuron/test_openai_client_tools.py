"""Tools and answers of a given form through the official client, against a real model."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.neuron.daemons import TINY
from tests.text.grammar.schemas import random_schema


def function(name: str, **properties: Any) -> Any:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    described = {"name": name, "description": f"Do {name}.", "parameters": parameters}
    return {"type": "function", "function": described}


WEATHER = function("get_weather", city={"type": "string", "maxLength": 20})
ADD = function("add_numbers", a={"type": "integer"}, b={"type": "integer"})
TOOLS = [WEATHER, ADD]
PARAMETERS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
PARIS: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
HELLO: Any = [{"role": "user", "content": "Hello!"}]
ASKED: Any = {"model": TINY, "messages": PARIS, "temperature": 0, "max_tokens": 120}


def calls_of(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments; every call must be well-formed, and fit the schema of its tool."""
    made = []
    for call in answer.choices[0].message.tool_calls or ():
        assert re.fullmatch("call_[0-9a-f]{32}", call.id)
        assert call.type == "function"
        made.append((call.function.name, json.loads(call.function.arguments)))
    return made


def fits(calls: list[tuple[str, dict[str, Any]]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(arguments, PARAMETERS[name])


def test_the_model_decides_whether_to_call(client: OpenAI) -> None:
    create = client.chat.completions.create
    called = create(**ASKED, tools=[WEATHER], tool_choice="auto")
    assert calls_of(called) == [("get_weather", {"city": "Paris"})]
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.content == ""
    spoken = create(**{**ASKED, "messages": HELLO}, tools=[WEATHER])
    assert spoken.choices[0].message.tool_calls is None
    assert spoken.choices[0].finish_reason == "stop"
    forbidden = create(**ASKED, tools=[WEATHER], tool_choice="none")
    assert forbidden.choices[0].message.tool_calls is None
    unoffered = create(**ASKED)
    assert forbidden.choices[0].message.content == unoffered.choices[0].message.content


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.5, "seed": 2}], ids=str)
def test_n072_a_call_that_is_required_is_made(client: OpenAI, sampling: dict[str, Any]) -> None:
    asked = {**ASKED, "messages": HELLO, **sampling}
    answer = client.chat.completions.create(**asked, tools=TOOLS, tool_choice="required")
    calls = calls_of(answer)
    assert calls and answer.choices[0].message.content == ""
    fits(calls)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.5, "seed": 2}], ids=str)
def test_n072_a_call_that_is_named_is_that_one(client: OpenAI, sampling: dict[str, Any]) -> None:
    named: Any = {"type": "function", "function": {"name": "add_numbers"}}
    answer = client.chat.completions.create(**{**ASKED, **sampling}, tools=TOOLS, tool_choice=named)
    calls = calls_of(answer)
    assert [name for name, _ in calls] == ["add_numbers"]
    fits(calls)


@pytest.mark.parametrize("name", ["auto", "none", "required"])
def test_a_tool_may_be_called_like_a_mode(client: OpenAI, name: str) -> None:
    named: Any = {"type": "function", "function": {"name": name}}
    asked = {**ASKED, "messages": HELLO}
    tools = [function(name, on={"type": "boolean"}), ADD]
    answer = client.chat.completions.create(**asked, tools=tools, tool_choice=named)
    assert [called for called, _ in calls_of(answer)] == [name]


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_one_call_is_enough_where_parallel_ones_are_off(client: OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        **ASKED, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
    )
    assert calls_of(answer) == [("get_weather", {"city": "Paris"})]
    assert answer.choices[0].finish_reason == "tool_calls"


def test_n080_a_streamed_call_is_one_chunk(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASKED, tools=[WEATHER], stream=True))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    (call,) = [call for delta in deltas for call in delta.tool_calls or ()]
    assert (call.index, call.type) == (0, "function")
    assert call.function is not None
    assert json.loads(call.function.arguments or "") == {"city": "Paris"}
    with client.chat.completions.stream(**ASKED, tools=[WEATHER]) as events:
        assert calls_of(events.get_final_completion()) == [("get_weather", {"city": "Paris"})]


def test_a_round_trip(client: OpenAI) -> None:
    """Asked, called, told the result as the client itself writes the messages, and answered."""
    weather = {"Paris": "sunny, 21 degrees"}
    messages = list(PARIS)
    for _ in range(3):
        answer = client.chat.completions.create(**{**ASKED, "messages": messages}, tools=[WEATHER])
        message = answer.choices[0].message
        if answer.choices[0].finish_reason != "tool_calls":
            break
        messages.append(message)  # as it is: the client writes it out again
        for call in message.tool_calls or ():
            assert call.type == "function"
            found = weather[json.loads(call.function.arguments)["city"]]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
    assert len(messages) == 3
    assert "sunny" in (message.content or "")


# --- response_format -----------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_n072_random_schemas(client: OpenAI, first: int) -> None:
    """Greedy, at 1 and at 2 in turn, three beside each other."""

    def ask(seed: int) -> str:
        schema = random_schema(1000 + seed)
        form: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
        answer = client.chat.completions.create(
            model=TINY,
            messages=[{"role": "user", "content": f"Tell me about number {seed}."}],
            response_format=form,
            temperature=seed % 3,
            seed=seed,
            max_tokens=150,
        )
        return answer.choices[0].message.content or ""

    seeds = range(first, first + 10)
    with ThreadPoolExecutor(3) as pool:
        for seed, text in zip(seeds, pool.map(ask, seeds), strict=True):
            jsonschema.validate(json.loads(text), random_schema(1000 + seed))


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_n072_an_object_of_any_kind(client: OpenAI, temperature: int) -> None:
    asked = {**ASKED, "temperature": temperature, "seed": 4, "max_tokens": 60}
    answer = client.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_a_streamed_object_is_the_same_object(client: OpenAI) -> None:
    schema = random_schema(1007)
    form: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    asked = {**ASKED, "response_format": form, "seed": 7, "temperature": 1, "max_tokens": 200}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole


def test_the_answer_is_held_to_a_format_after_reasoning(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    asked = {**ASKED, "messages": [{"role": "user", "content": "What is 12 + 7?"}]}
    answer = client.chat.completions.create(**asked, response_format=form, reasoning_effort="low")
    message: Any = answer.choices[0].message
    assert message.reasoning_content
    jsonschema.validate(json.loads(message.content), schema)


class Pet(BaseModel):
    """A class that the client turns into a schema."""

    name: str = Field(max_length=12)
    kind: Literal["cat", "goat"]
    age: Literal[1, 2, 3] | None


def test_the_client_parses_an_answer_into_a_class(client: OpenAI) -> None:
    answer = client.chat.completions.parse(**ASKED, response_format=Pet)
    assert isinstance(answer.choices[0].message.parsed, Pet)
    tool = openai.pydantic_function_tool(Pet)
    called = client.chat.completions.parse(**ASKED, tools=[tool], tool_choice="required")
    (first, *_) = called.choices[0].message.tool_calls or ()
    assert isinstance(first.function.parsed_arguments, Pet)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"$ref": "https://example.org/schema"}, "nothing outside of it is fetched"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "recursion"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
    ],
    ids=["keyword", "elsewhere", "endless", "pattern"],
)
def test_a_schema_that_cannot_be_kept_is_refused(client: OpenAI, schema: Any, says: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASKED, response_format=form)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "response_format")
    assert says in caught.value.message
