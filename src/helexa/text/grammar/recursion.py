"""Schemas that refer to themselves: where a schema has schemas within, and whether it can end."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

_MAPS: Final = frozenset("properties patternProperties $defs definitions".split())
_LISTS: Final = frozenset("anyOf oneOf allOf prefixItems".split())
_SINGLE: Final = frozenset("items additionalItems additionalProperties".split())


def subschemas(key: str, value: Any) -> Iterator[Any]:
    """The schemas that stand directly in the value of a keyword."""
    if key in _MAPS and isinstance(value, Mapping):
        yield from value.values()
    elif key in _LISTS | _SINGLE and isinstance(value, list | tuple):
        yield from value
    elif key in _SINGLE and isinstance(value, Mapping):
        yield value


def resolve(root: Mapping[str, Any], reference: str) -> Any:
    """What ``#`` or ``#/a/b`` leads to; None if nothing. Source: RFC 6901 §4, §6."""
    found: Any = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def require_an_end(root: Mapping[str, Any]) -> str | None:
    """What is wrong with a schema that only endless values fit; None if nothing is.

    The schemas that have a finite value are the least set that holds each one whose every need has
    a member in it. A need is a list of schemas of which one is enough.
    """
    nodes: dict[int, Mapping[str, Any]] = {}
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping) and id(node) not in nodes:
            nodes[id(node)] = node
            waiting += [child for need in _needs(root, node) for child in need]
    missing: dict[int, int] = {}  # node → needs that are not met yet
    served: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # schema → node, need
    for at, node in nodes.items():
        needs = [need for need in _needs(root, node) if all(isinstance(n, Mapping) for n in need)]
        missing[at] = len(needs)
        for index, need in enumerate(needs):
            for child in need:
                served[id(child)].append((at, index))
    ready = deque(at for at, count in missing.items() if not count)
    met: set[tuple[int, int]] = set()
    while ready:
        for at, index in served[ready.popleft()]:
            if (at, index) not in met:
                met.add((at, index))
                missing[at] -= 1
                if not missing[at]:
                    ready.append(at)
    if not missing[id(root)]:
        return None
    return "is recursive without an end ($ref): no finite value fits it"


def _needs(root: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[list[Any]]:
    if isinstance(node.get("$ref"), str):
        yield [resolve(root, node["$ref"])]
    for part in _list(node.get("allOf")):
        yield [part]
    for key in ("anyOf", "oneOf"):
        if _list(node.get(key)):
            yield _list(node[key])
    properties = node.get("properties")
    if node.get("type") == "object" and isinstance(properties, Mapping):
        for name in _list(node.get("required")):
            if isinstance(name, str) and name in properties:
                yield [properties[name]]
    least = node.get("minItems")
    filled = isinstance(least, int) and least > 0 and isinstance(node.get("items"), Mapping)
    if node.get("type") == "array" and filled:
        yield [node["items"]]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
