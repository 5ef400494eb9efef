"""What stands between tool markers: JSON or tags, and values by their declared types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.text.parsing.bodies import parse_call
from tests.text.builders import function_tool, quick

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
WEATHER = function_tool(
    "weather",
    city={"type": "string"},
    days={"type": "integer"},
    share={"type": "number"},
    metric={"type": "boolean"},
    where={"type": "object"},
    tags={"type": "array"},
    unit={"type": ["string", "null"]},
    limit={"type": ["integer", "null"]},
    free={},
    odd=3,
)


def arguments(body: str, *tools: Any) -> Any:
    """The arguments that a body gives, as a value."""
    call = parse_call(body, tools)
    assert call is not None
    return json.loads(call.arguments)


def tagged(name: str = "weather", **values: str) -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<function={name}>\n{inner}</function>"


# -- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"name":"w","arguments":{"city":"Brno"}}', '{"city":"Brno"}'),
        ('\n{"name": "w", "arguments": {"c": 1, "n": [1, 2]}}\n', '{"c":1,"n":[1,2]}'),
        ('{"name":"w"}', "{}"),
        ('{"name":"w","arguments":null}', "{}"),
        ('{"name":"w","arguments":"{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name":"w","arguments":"not json"}', "not json"),
        ('{"name":"w","parameters":{"a":1}}', '{"a":1}'),
        ('{"name":"w","arguments":{"b":2},"parameters":{"a":1}}', '{"b":2}'),
        ('{"name":"w","arguments":{"k":"kůň 🙂"}}', '{"k":"kůň 🙂"}'),
        ('{"name":"w","arguments":{"k":"\\ud800"}}', '{"k":"\\ud800"}'),
    ],
)  # fmt: skip
def test_e081_json_call(body: str, text: str) -> None:
    call = parse_call(body)

    assert call is not None
    assert (call.name, call.arguments) == ("w", text)
    call.arguments.encode()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "I will call it.",
        "[1]",
        '"w"',
        "{",
        '{"arguments":{}}',
        '{"name":3,"arguments":{}}',
        '{"name":"w","arguments":{"a":NaN}}',
        '{"name":"w","arguments":{"a":1e999}}',
        '{"name":"w","arguments":' + "[" * 100_000 + "}",
        "<function=>",
        "<function= \n>",
        "text <function=w></function>",
        "<tool>w</tool>",
    ],
)
def test_e083_what_is_no_call(body: str) -> None:
    assert parse_call(body) is None


@quick
@given(value=st.dictionaries(st.text(max_size=8), JSON, max_size=3))
def test_any_json_arguments_survive(value: dict[str, Any]) -> None:
    body = json.dumps({"name": "f", "arguments": value})

    assert arguments(body) == value


# -- tags -----------------------------------------------------------------------------------------


def test_e082_values_by_declared_type() -> None:
    body = tagged(city="Brno", days="3", metric="true")

    assert arguments(body, WEATHER) == {"city": "Brno", "days": 3, "metric": True}
    assert arguments(body, WEATHER["function"]) == {"city": "Brno", "days": 3, "metric": True}


def test_e082_values_without_declaration() -> None:
    assert arguments(tagged(n="42", s="hello")) == {"n": 42, "s": "hello"}
    assert arguments(tagged(n="42"), function_tool("other", n={"type": "string"})) == {"n": 42}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("city", "42", "42"),
        ("city", "  padded  ", "padded"),
        ("city", "<b>&amp;</b>", "<b>&amp;</b>"),
        ("city", "two\nlines", "two\nlines"),
        ("days", "not-a-number", "not-a-number"),
        ("days", "true", "true"),
        ("days", "2.5", 2.5),
        ("share", "1e3", 1000.0),
        ("share", "NaN", "NaN"),
        ("share", "1e999", "1e999"),
        ("share", "9" * 5000, "9" * 5000),
        ("metric", "false", False),
        ("metric", "True", "True"),
        ("metric", "1", "1"),
        ("where", '{"a": 1}', {"a": 1}),
        ("where", "{bad", "{bad"),
        ("tags", '["x"]', ["x"]),
        ("tags", "x, y", "x, y"),
        ("unit", "42", "42"),
        ("unit", "null", None),
        ("limit", "null", None),
        ("limit", "7", 7),
        ("free", "[1]", [1]),
        ("odd", "[1]", [1]),
        ("unknown", "null", None),
    ],
)
def test_e082_coercion(key: str, text: str, value: Any) -> None:
    assert arguments(tagged(**{key: text}), WEATHER) == {key: value}


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ("<function=f>", "f", {}),
        ("<function=f", "f", {}),
        ("<function= f >\n</function>", "f", {}),
        ("<function=f\n<parameter=a>1</parameter>", "f", {"a": 1}),
        ("<function=f><parameter=a>1", "f", {"a": 1}),
        ("<function=f><parameter=a>1</function>", "f", {"a": 1}),
        ("<function=f><parameter=a>1</parameter><parameter=b>x", "f", {"a": 1, "b": "x"}),
        ("<function=f>junk<parameter= a >1</parameter>junk</function>", "f", {"a": 1}),
        ("<function=f><parameter=a></parameter></function>", "f", {"a": ""}),
    ],
)  # fmt: skip
def test_e082_tags(body: str, name: str, value: Any) -> None:
    call = parse_call(body)

    assert call is not None
    assert (call.name, json.loads(call.arguments)) == (name, value)


@pytest.mark.parametrize(
    "tools",
    [
        [{}],
        [{"function": None}],
        [{"function": {"name": "weather"}}],
        [{"function": {"name": "weather", "parameters": None}}],
        [{"name": "weather", "parameters": {"properties": [1]}}],
        [{"name": "weather", "parameters": {"properties": {"n": {"type": {"x": 1}}}}}],
    ],
)
def test_odd_tools_declare_nothing(tools: list[dict[str, Any]]) -> None:
    assert arguments(tagged(n="42"), *tools) == {"n": 42}
