"""The two ways in which models write a tool call: a JSON object, or tags around plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helexa.text.parsing.values import (
    compact_json,
    declared_properties,
    from_declared,
    strict_json,
    well_formed,
)

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CallBody:
    """What a call says: the tool's name, and its arguments as JSON text."""

    name: str
    arguments: str


def parse_call(body: str, tools: Tools | None = None) -> CallBody | None:
    """Read what stands between tool markers; None if it is no call.

    ``tools`` are the request's: they say which type a tagged value has.
    """
    body = body.strip()
    try:
        return _from_json(body) or _from_tags(body, tools or ())
    except RecursionError:  # nested too deeply to be written again
        return None


def _from_json(body: str) -> CallBody | None:
    call = strict_json(body) if body.startswith("{") else None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments")
    if arguments is None:
        arguments = call.get("parameters")
    if arguments is None:
        arguments = {}
    text = well_formed(arguments) if isinstance(arguments, str) else compact_json(arguments)
    return CallBody(well_formed(call["name"]), text)


def _from_tags(body: str, tools: Tools) -> CallBody | None:
    head = re.match(r"<function=([^>\n]*)[>\n]?", body)
    name = head[1].strip() if head else ""
    if head is None or not name:
        return None
    properties = declared_properties(tools, name)
    arguments = {
        key.strip(): from_declared(value.strip(), properties.get(key.strip()))
        for key, value in _parameters(body[head.end() :])
    }
    return CallBody(name, compact_json(arguments))


def _parameters(text: str) -> list[tuple[str, str]]:
    """All ``<parameter=KEY>VALUE</parameter>``; the last one may lack its end."""
    found = []
    at = text.find("<parameter=")
    while at >= 0:
        key, _, rest = text[at + len("<parameter=") :].partition(">")
        value, closed, text = rest.partition("</parameter>")
        if not closed:
            value = value.partition("</function>")[0]
        found.append((key, value))
        at = text.find("<parameter=")
    return found
