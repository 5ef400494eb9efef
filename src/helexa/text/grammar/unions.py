"""`oneOf`, which the library takes only where it sees that no value fits two of its schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

from helexa.text.grammar.recursion import resolve

Schema = Mapping[str, Any]

_HOPS: Final = 8


def exclusive(root: Schema, alternatives: list[Any]) -> bool:
    """Whether no value can fit two of these schemas, so that one of them is any of them."""
    resolved = [_resolved(root, schema) for schema in alternatives]
    tags = [dict(_tags(root, schema)) for schema in resolved]
    kinds = [_kinds(schema) for schema in resolved]
    return all(
        not kinds[a] & kinds[b]
        or any(not tags[a][p] & tags[b][p] for p in tags[a].keys() & tags[b])
        for a, b in combinations(range(len(resolved)), 2)
    )


def _resolved(root: Schema, schema: Any) -> Schema:
    """A schema in the place of a bare reference to it."""
    for _ in range(_HOPS):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolve(root, schema["$ref"])
    return schema if isinstance(schema, Mapping) else {}


def _kinds(schema: Schema) -> frozenset[str]:
    """The JSON types a value may have; an integer is a number."""
    types = schema.get("type")
    if isinstance(types, str):
        types = [types]
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        return frozenset("object array string number boolean null".split())
    return frozenset("number" if kind == "integer" else kind for kind in types)


def _tags(root: Schema, schema: Schema) -> Iterator[tuple[str, frozenset[str]]]:
    """The required properties of an object that must be one of a few strings."""
    properties, required = schema.get("properties"), schema.get("required")
    if schema.get("type") != "object" or not isinstance(properties, Mapping):
        return
    for name in required if isinstance(required, list) else []:
        tag = _resolved(root, properties.get(name))
        values = [tag["const"]] if "const" in tag else tag.get("enum")
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            yield name, frozenset(values)
