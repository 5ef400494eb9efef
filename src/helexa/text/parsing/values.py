"""Argument values: strict JSON in and out, and text read as its declared type."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

NOT_JSON: Final = object()
"""What `strict_json` answers when a text is not JSON."""


def strict_json(text: str) -> Any:
    """The value of a JSON text, or `NOT_JSON`; NaN and infinities are not JSON."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        return NOT_JSON


def compact_json(value: Any) -> str:
    """A value of `strict_json` as JSON without spaces, in characters that UTF-8 can carry."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if well_formed(text) == text else json.dumps(value, separators=(",", ":"))


def well_formed(text: str) -> str:
    """The text with U+FFFD for each unpaired surrogate, so that it can be sent as UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def declared_properties(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The properties that a tool declares for its parameters; empty if it declares none."""
    for tool in tools:
        function = _mapping(tool).get("function", tool)
        if _mapping(function).get("name") == name:
            return _mapping(_mapping(_mapping(function).get("parameters")).get("properties"))
    return {}


def from_declared(text: str, declared: object) -> Any:
    """Read a value by the ``type`` in its declaration; what does not fit stays a string."""
    match _mapping(declared).get("type"):
        case "string":
            return text
        case "integer" | "number":
            value = strict_json(text)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return value if is_number else text
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
        case list() as types if "string" in types:
            return None if text == "null" and "null" in types else text
    value = strict_json(text)
    return text if value is NOT_JSON else value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number that JSON can express")
    return value
