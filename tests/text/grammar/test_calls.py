"""Tool calls that must be made: in the form the model writes, and read by the one parser."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from helexa.engine.masks import GrammarSpec
from helexa.errors import InvalidRequest, UnsupportedGrammar
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.grammar.request import CallForm, chosen_tool, requested_grammar
from helexa.text.parsing.bodies import parse_call
from helexa.text.tokenizer import Tokenizer
from tests.text.grammar.following import follow, started
from tests.text.grammar.schemas import random_schema

Tool = dict[str, Any]
SIMPLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "code": {"type": "string", "pattern": "^[a-z]{2}$"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "at": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "note": {"type": ["string", "null"], "minLength": 1, "maxLength": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any = None) -> Tool:
    function = {"name": name} | ({} if parameters is None else {"parameters": parameters})
    return {"type": "function", "function": function}


def calls_of(
    factory: GrammarFactory, tiny: Tokenizer, spec: GrammarSpec, tools: list[Tool], seed: int
) -> list[tuple[str, Any]]:
    """The calls in a random answer, and nothing but calls may be in it."""
    text = tiny.decode(
        follow(started(factory, spec, max_tokens=600), random.Random(seed)),
        skip_special_tokens=False,
    )
    parts = text.split("\n<tool_call>")
    parts[0] = parts[0].removeprefix("<tool_call>")
    calls = []
    for part in parts:
        assert part.endswith("</tool_call>"), text
        call = parse_call(part.removesuffix("</tool_call>"), tools)
        assert call is not None, text
        calls.append((call.name, json.loads(call.arguments)))
    return calls


def required(
    tools: list[Tool], choice: Any = "required", *, parallel: bool = True, form: CallForm = "json"
) -> GrammarSpec:
    spec = requested_grammar(None, tools, choice, parallel=parallel, form=form)
    assert spec is not None
    return replace(spec, reasoning=False)


def test_random_parameters_are_held_to(factory: GrammarFactory, tiny: Tokenizer) -> None:
    for seed in range(40):
        schemas = {f"tool_{i}": random_schema(1000 + 3 * seed + i) for i in range(3)}
        tools = [tool(name, schema) for name, schema in schemas.items()]
        calls = calls_of(factory, tiny, required(tools), tools, seed)
        for name, arguments in calls:
            jsonschema.validate(arguments, schemas[name])


@pytest.mark.parametrize("form", ["json", "tags"])
def test_a_call_fits_in_either_form(
    factory: GrammarFactory, tiny: Tokenizer, form: CallForm
) -> None:
    tools = [tool("get_weather", SIMPLE), tool("stop")]
    seen = set()
    for seed in range(60):
        for name, arguments in calls_of(factory, tiny, required(tools, form=form), tools, seed):
            seen.add(name)
            jsonschema.validate(
                arguments, SIMPLE if name == "get_weather" else {"maxProperties": 0}
            )
    assert seen == {"get_weather", "stop"}


def test_a_named_tool_is_called_once_and_parallel_calls_may_be_several(
    factory: GrammarFactory, tiny: Tokenizer
) -> None:
    tools = [tool("one", SIMPLE), tool("two")]
    counts = {"required": set(), "alone": set(), "named": set()}
    named = {"type": "function", "function": {"name": "two"}}
    for seed in range(30):
        specs = {
            "required": required(tools),
            "alone": required(tools, parallel=False),
            "named": required(tools, named),
        }
        for kind, spec in specs.items():
            calls = calls_of(factory, tiny, spec, tools, seed)
            counts[kind].add(len(calls))
            assert kind != "named" or {name for name, _ in calls} == {"two"}
    assert counts["alone"] == counts["named"] == {1}
    assert len(counts["required"]) > 1


@pytest.mark.parametrize(
    "choice",
    ["get", {"type": "function", "function": {"name": "get"}}, {"type": "function", "name": "get"}],
)
def test_a_tool_may_be_named_in_three_ways(choice: Any) -> None:
    assert chosen_tool(choice, [tool("get"), {"name": "bare"}]) == ("required", "get")


@pytest.mark.parametrize(
    ("choice", "tools", "said"),
    [
        ("required", None, "no tools"),
        ("required", [], "no tools"),
        ("get_wether", [tool("get_weather")], "did you mean 'get_weather'"),
        ("x", [tool("get"), tool("put")], "get, put"),
        (5, [tool("get")], "not 5"),
        ({"type": "tool", "name": "get"}, [tool("get")], "name a function"),
        ("required", ["get"], "tools[0]"),
        ("required", [{"type": "function", "function": {}}], "tools[0]"),
    ],
)
def test_a_wrong_choice_is_explained(choice: Any, tools: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        requested_grammar(None, tools, choice, parallel=True, form="json")
    assert said in str(caught.value)
    assert caught.value.code == "invalid_value"
    assert caught.value.param in ("tool_choice", "tools")


@pytest.mark.parametrize(
    ("tools", "form"),
    [
        ([tool("f")], None),
        ([tool("f", {"type": "string"})], "json"),
        ([tool("f", {"$ref": "https://example.com"})], "json"),
        ([tool(f"f{i}") for i in range(129)], "json"),
        ([tool("f>", SIMPLE)], "tags"),
        ([tool("f", {"anyOf": [SIMPLE]})], "tags"),
        ([tool("f", {"properties": {"a": {"type": "string", "pattern": "a"}}})], "tags"),
        ([tool("f", {"properties": {"a": {"type": "string", "enum": [" a"]}}})], "tags"),
        ([tool("f", {"required": ["a"]})], "tags"),
    ],
    ids="format parameters remote many name union pattern choice undeclared".split(),
)
def test_tools_that_cannot_be_enforced_are_refused(
    factory: GrammarFactory, tools: list[Tool], form: CallForm | None
) -> None:
    with pytest.raises(UnsupportedGrammar) as caught:
        spec = requested_grammar(None, tools, "required", parallel=True, form=form)
        assert spec is not None
        factory.prepare(spec)
    assert caught.value.param in ("tools", "tool_choice")


def test_an_answer_or_calls_where_both_are_asked_for(
    factory: GrammarFactory, tiny: Tokenizer
) -> None:
    tools = [tool("get", {"not": "enforced"})]
    spec = requested_grammar({"type": "json_object"}, tools, "auto", parallel=True, form="json")
    assert spec is not None and spec.kind == "json_or_tool_calls"
    begun = set()
    for seed in range(300):
        mask = started(factory, spec, max_tokens=40)
        begun.add(tiny.decode(follow(mask, random.Random(seed), 1), skip_special_tokens=False)[0])
    assert begun == {"<", "{"}


def test_no_tools_are_called_where_none_may_be() -> None:
    spec = requested_grammar(
        {"type": "json_object"}, [tool("f")], "none", parallel=True, form="json"
    )
    assert spec == GrammarSpec("json_object", "")
    assert requested_grammar({"type": "text"}, None, "auto", parallel=True, form=None) is None
