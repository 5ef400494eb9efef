"""Random JSON schemas of what is supported, small enough that a tiny model fills them in."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]
PATTERNS = ("^[a-z]{2,5}$", "^[0-9]{4}-[0-9]{2}$", "^(red|green)-[A-F]+x$", "a[bc]?d")


def random_schema(seed: int) -> Schema:
    """An object schema; the same for the same seed."""
    chance = random.Random(seed)
    definitions: dict[str, Schema] = {}
    root = _object(chance, 3, definitions)
    if definitions:
        root["$defs"] = definitions
    return root


def _any(chance: random.Random, depth: int, definitions: dict[str, Schema]) -> Schema:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "types"]
    if depth:
        kinds += ["object", "object", "array", "array", "anyOf", "ref"]
    match chance.choice(kinds):
        case "string":
            least = chance.randint(0, 3)
            return {"type": "string", "minLength": least, "maxLength": least + chance.randint(0, 8)}
        case "integer":
            low = chance.randint(-50, 50)
            return {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 200)}
        case "number":
            return {"type": "number", "exclusiveMinimum": 0, "maximum": chance.choice([1, 7.5])}
        case "enum":
            return {"enum": chance.sample(["red", "žlutá", 'a "b"', 3, 2.5, True, None, ["x"]], 3)}
        case "const":
            return {"const": chance.choice(["fixed", 42, {"a": [1, None]}, False])}
        case "pattern":
            return {"type": "string", "pattern": chance.choice(PATTERNS), "maxLength": 20}
        case "types":
            return {"type": ["boolean", "null"]}
        case "object":
            return _object(chance, depth - 1, definitions)
        case "array":
            low = chance.randint(0, 2)
            items = _any(chance, depth - 1, definitions)
            high = low + chance.randint(0, 2)
            return {"type": "array", "items": items, "minItems": low, "maxItems": high}
        case "anyOf":
            return {"anyOf": [_any(chance, depth - 1, definitions) for _ in range(2)]}
        case "ref":
            name = f"part{len(definitions)}"
            definitions[name] = {}
            definitions[name] = _any(chance, depth - 1, definitions)
            return {"$ref": f"#/$defs/{name}", "description": "says nothing"}
        case kind:
            return {"type": kind}


def _object(chance: random.Random, depth: int, definitions: dict[str, Schema]) -> Schema:
    names = chance.sample(["name", "age", "tags", "a b", "x-y", 'quo"te', "Größe"], 3)
    return {
        "type": "object",
        "title": "Thing",
        "properties": {name: _any(chance, depth, definitions) for name in names},
        "required": [name for name in names if chance.random() < 0.6],
        "additionalProperties": False,
    }
