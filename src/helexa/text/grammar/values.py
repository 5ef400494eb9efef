"""Grammar rules for JSON values."""

from __future__ import annotations

import json
from typing import Any, Final

ANY_DEPTH: Final = 64
SPACING: Final = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def json_rule(schema: Any) -> str:
    """The part of a rule that a value fitting a schema matches: at most one space after , and :."""
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": SPACING}
    return f"%json {json.dumps(schema)}"


def any_object(depth: int = ANY_DEPTH) -> dict[str, Any]:
    """A schema for all JSON objects of at most so many levels."""
    scalars = [{"type": name} for name in ("string", "number", "boolean", "null")]
    values: dict[str, Any] = {"value1": {"anyOf": scalars}}
    for level in range(2, depth + 1):
        inner = {"$ref": f"#/$defs/value{level - 1}"}
        containers = [
            {"type": "object", "additionalProperties": inner},
            {"type": "array", "items": inner},
        ]
        values[f"value{level}"] = {"anyOf": [*scalars, *containers]}
    inner = {"$ref": f"#/$defs/value{depth}"}
    return {"$defs": values, "type": "object", "additionalProperties": inner}
