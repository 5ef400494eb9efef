"""Schemas that are refused: by name, with a typed error, and before they cost anything."""

from __future__ import annotations

import time
from typing import Any

import pytest

from helexa.engine.masks import GrammarSpec
from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.grammar.request import requested_grammar
from helexa.text.grammar.schema import checked

Schema = Any


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def deep_list(depth: int) -> Schema:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"const": value}


def doubling(levels: int) -> Schema:
    """Each level refers twice to the one before: 2^levels places when written out."""
    parts: Schema = {"a0": {"type": "string"}}
    for level in range(1, levels):
        inner = {"$ref": f"#/$defs/a{level - 1}"}
        parts[f"a{level}"] = {"type": "object", "properties": {"x": inner, "y": inner}}
    return {"$defs": parts, "$ref": f"#/$defs/a{levels - 1}"}


REFUSED: dict[str, tuple[Schema, str]] = {
    "nested deeply": (nested(100), "levels deep"),
    "nested endlessly": (deep_list(100_000), "nested too deeply"),
    "huge enum": ({"enum": [f"v{i}" for i in range(10_000)]}, "5000 choices"),
    "many enums": (
        {"anyOf": [{"enum": [f"v{i}.{j}" for j in range(100)]} for i in range(90)]},
        "5000 choices",
    ),
    "many alternatives": ({"anyOf": [{"type": "string"}] * 101}, "101 schemas"),
    "many properties": (
        {"type": "object", "properties": {f"p{i}": {} for i in range(501)}},
        "501 properties",
    ),
    "too large": ({"const": "x" * 200_000}, "characters"),
    "many items": ({"type": "array", "minItems": 10**9}, "minItems"),
    "long string": ({"type": "string", "maxLength": 10**9}, "maxLength"),
    "long pattern": ({"type": "string", "pattern": "a" * 2_000}, "pattern"),
    "repeating pattern": ({"type": "string", "pattern": "a{1000000}"}, "1000 times"),
    "pattern of depth": ({"type": "string", "pattern": "(" * 300 + "a" + ")*" * 300}, "regex"),
    "open pattern": ({"type": "string", "pattern": "(a"}, "regex"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "regex"),
    "costly multiple": ({"type": "integer", "multipleOf": 999_983}, "multipleOf"),
    "costly multiples": (
        {"allOf": [{"multipleOf": 9_973}, {"multipleOf": 9_967}], "type": "integer"},
        "multipleOf",
    ),
    "refers to itself": ({"$ref": "#"}, "recursive"),
    "refers in a ring": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "recursive",
    ),
    "all of itself": (
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        "recursive",
    ),
    "endless object": (
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "recursive",
    ),
    "endless list": ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "recursive"),
    "remote": ({"$ref": "https://example.com/schema.json"}, "https://example.com"),
    "a file": ({"$ref": "file:///etc/passwd"}, "file:"),
    "nowhere": ({"$ref": "#/$defs/none"}, "#/$defs/none"),
    "not": ({"not": {"type": "string"}}, "'not'"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    "if": ({"if": {"type": "string"}, "then": {"minLength": 3}}, "'if'"),
    "contains": ({"type": "array", "contains": {"type": "string"}}, "'contains'"),
    "minProperties": ({"type": "object", "minProperties": 3}, "'minProperties'"),
    "a slip": ({"type": "string", "maxlength": 3}, "did you mean 'maxLength'"),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    "empty range": ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
    "false": (False, "false"),
    "wrong type": ({"type": "text"}, "text"),
    "wrong properties": ({"properties": 3}, "properties"),
    "wrong length": ({"type": "string", "minLength": "a"}, "minLength"),
    "wrong multiple": ({"multipleOf": "7"}, "multipleOf"),
    "a list": ([1], "list"),
    "a text": ("{}", "str"),
    "not JSON": ({"const": float("nan")}, "JSON"),
    "half a character": ({"const": "\ud800"}, "hex escape"),
}


def grammar_of(schema: Schema) -> GrammarSpec:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    spec = requested_grammar(asked, None, "auto", parallel=True, form="json")
    assert spec is not None
    return spec


@pytest.mark.parametrize(("schema", "said"), REFUSED.values(), ids=list(REFUSED))
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(
    factory: GrammarFactory, schema: Schema, said: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(UnsupportedGrammar) as caught:
        factory.prepare(grammar_of(schema))
    assert time.monotonic() - begun < 10  # mostly milliseconds; the machine may be busy
    assert said in str(caught.value)
    assert (caught.value.status, caught.value.code) == (400, "unsupported_parameter")
    assert caught.value.param == "response_format"
    assert "\n" not in str(caught.value)


BOUNDED: dict[str, Schema] = {
    "doubling references": doubling(40),
    "nested repeats": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
    "states without end": {"type": "string", "pattern": "^(.*a.{300}b.*|.*c.{300}d.*)$"},
    "ambiguous": {"type": "string", "pattern": "(x+x+)+y"},
    "many lists": {"type": "array", "items": {"type": "array", "minItems": 9_999}, "minItems": 99},
    "every alternative": {
        "anyOf": [
            {"type": "object", "properties": {f"a{i}.{j}": {} for j in range(20)}}
            for i in range(100)
        ]
    },
}


@pytest.mark.parametrize("schema", BOUNDED.values(), ids=list(BOUNDED))
def test_what_is_not_refused_stays_within_bounds(factory: GrammarFactory, schema: Schema) -> None:
    """It may compile or be refused, and may fail later: soon, and with the same error."""
    begun = time.monotonic()
    try:
        mask = factory.start(grammar_of(schema), (), frozenset({1017}), 10_000)
        for step in range(60):
            bits = int.from_bytes(mask.fill(), "little")
            first = (bits & -bits).bit_length() - 1
            mask.accept(bits.bit_length() - 1 if step % 3 else first)
            if mask.is_terminated:
                break
    except UnsupportedGrammar:
        pass
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#"}}},
         "required": ["a"]},
        {"$defs": {"t": {"anyOf": [
            {"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/t"}, "minItems": 2}
        ]}}, "$ref": "#/$defs/t"},
        {"oneOf": [
            {"type": "object", "properties": {"k": {"const": k}, k: {"type": "integer"}},
             "required": ["k"]} for k in ("a", "b")
        ]},
        {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a",
         "type": "string", "format": "no such format", "default": 3, "x-note": 1, "examples": [2]},
        {"$defs": {"a/b": {"type": "null"}}, "$ref": "#/$defs/a~1b"},
    ],
    ids=["list", "tree", "ring with an end", "tagged union", "annotations", "escaped pointer"],
)  # fmt: skip
def test_what_people_write_is_taken(factory: GrammarFactory, schema: Schema) -> None:
    factory.prepare(grammar_of(schema))


def test_a_schema_of_pydantic_is_taken(factory: GrammarFactory) -> None:
    from typing import Literal

    from pydantic import BaseModel, Field

    class Cat(BaseModel):
        kind: Literal["cat"]
        lives: int = Field(ge=0, le=9)

    class Dog(BaseModel):
        kind: Literal["dog"]
        name: str | None = None

    class Home(BaseModel):
        pets: list[Cat | Dog] = Field(max_length=3)
        star: Cat | Dog = Field(discriminator="kind")

    factory.prepare(grammar_of(Home.model_json_schema()))


def test_a_checked_schema_keeps_what_it_says_and_shares_nothing() -> None:
    schema = {"properties": {"title": {"title": "x", "enum": [{"title": 1}]}}, "default": {}}
    copy = checked(schema, "response_format")
    assert copy == {"properties": {"title": {"enum": [{"title": 1}]}}}
    assert schema["default"] == {}
