"""Grammar rules for tool calls, in the two forms that models write and the parser reads.

Calls are plain data: ``{"tools": [{"name", "parameters"}], "many": …, "form": "json" | "tags"}``,
with checked parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.values import json_rule
from helexa.text.parsing.markers import Markers

_PLAIN_NAME: Final = re.compile(r"[^\s<>\"\\][^<>\n\"\\]*(?<!\s)")
_TEXT: Final = r"(\S((?s:.)*\S)?)?"  # the parser trims what stands between tags
_INSIDE: Final = r"~/(?s:.)*<\/parameter>(?s:.)*/"
# What a string in tags cannot be held to; its length, choices and whole patterns it can.
_UNTAGGED: Final = frozenset("anyOf oneOf allOf $ref format const not".split())


def call_rules(calls: Mapping[str, Any], markers: Markers) -> str:
    """The rule ``calls`` and what it needs. Raises UnsupportedGrammar if tags cannot express it."""
    assert markers.tool is not None, "a request without markers is refused earlier"
    opening, closing = (f"<[{id}]>" for id in (markers.tool.open_id, markers.tool.close_id))
    tools = calls["tools"]
    rules = [
        'calls: call ("\\n" call)*' if calls["many"] else "calls: call",
        f'call: {opening} "\\n" body "\\n" {closing}',
        "body: " + " | ".join(f"tool_{index}" for index in range(len(tools))),
    ]
    for index, tool in enumerate(tools):
        if calls["form"] == "tags":
            rules += _tagged(index, tool["name"], tool["parameters"])
        else:
            name, values = json_rule({"const": tool["name"]}), json_rule(tool["parameters"])
            rules.append(
                f'tool_{index}: "{{\\"name\\": " name_{index} ", \\"arguments\\": " '
                f'values_{index} "}}"\nname_{index}: {name}\nvalues_{index}: {values}'
            )
    return "\n".join(rules)


def _tagged(index: int, name: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    """``<function=NAME>`` around one ``<parameter=KEY>`` for each property, in declared order."""
    _require_plain(name, "tool")
    properties = parameters.get("properties", {})
    required = set(parameters.get("required", ()))
    for key in parameters:
        if key not in ("type", "properties", "required", "additionalProperties", "$defs"):
            raise UnsupportedGrammar(f"{name} has {key!r} beside its properties")
    if missing := required - set(properties):
        raise UnsupportedGrammar(
            f"{name} requires {sorted(missing)[0]!r}, which it does not declare"
        )
    parts = []
    for at, (key, schema) in enumerate(properties.items()):
        _require_plain(key, "parameter")
        rule = f"value_{index}_{at}"
        opening = json.dumps(f"<parameter={key}>\n")
        parts.append(f"({opening} {rule})" + ("" if key in required else "?"))
        yield from _tagged_value(rule, schema, parameters.get("$defs"))
    opening = json.dumps(f"<function={name}>\n")
    yield f'tool_{index}: {opening} {" ".join(parts)} "</function>"'


def _tagged_value(rule: str, schema: Any, definitions: Any) -> Iterator[str]:
    """A value and its closing tag: a string stands there as it is, anything else as JSON."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if kinds == "string" or (isinstance(kinds, list) and "string" in kinds):
        yield f'{rule}[lazy]: {rule.upper()} "\\n</parameter>\\n"'
        yield f"{rule.upper()}: {_string(schema)}"
        return
    if isinstance(schema, Mapping) and definitions is not None:
        schema = {"$defs": definitions, **schema}
    yield f'{rule}: {rule}_json "\\n</parameter>\\n"'
    yield f"{rule}_json: {json_rule(schema)}"


def _string(schema: Mapping[str, Any]) -> str:
    """A terminal for a string between tags."""
    for key in _UNTAGGED & set(schema):
        raise UnsupportedGrammar(f"a string parameter uses {key!r}, which tags cannot express")
    if "enum" in schema:
        return " | ".join(_choice(value) for value in schema["enum"])
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    parts = [f"/{_TEXT}/", _INSIDE]
    if least or most != "":
        parts.append(f"/(?s:.){{{least},{most}}}/")
    if "pattern" in schema:
        parts.append(f"/{_whole(schema['pattern'])}/")
    return " & ".join(parts)


def _choice(value: object) -> str:
    """A choice as it is read again: without tags, trimmed, ``null`` for None."""
    text = "null" if value is None else value
    if not isinstance(text, str) or text != text.strip() or "</parameter>" in text:
        raise UnsupportedGrammar(f"the choice {value!r:.80} cannot stand between tags")
    return json.dumps(text)


def _whole(pattern: str) -> str:
    """A pattern that spans its string, without the anchors, as it is written between slashes."""
    inner = pattern[1:-1]
    if pattern[:1] != "^" or pattern[-1:] != "$" or re.search(r"[\^$/\n]|\\[bB]", inner):
        raise UnsupportedGrammar(f"the pattern {pattern!r:.80} is not one that tags can express")
    return f"({inner})"


def _require_plain(name: str, what: str) -> None:
    if not _PLAIN_NAME.fullmatch(name):
        raise UnsupportedGrammar(f"the {what} name {name!r:.80} cannot stand in a tag")
