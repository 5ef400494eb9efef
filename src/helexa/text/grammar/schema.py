"""JSON schemas as they arrive: how large they may be, what they may say, and whether they can end.

What passes is handed to the grammar library, which still refuses what it cannot express; the
limits here keep it from working for long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from fractions import Fraction
from math import lcm
from typing import Any, Final, NoReturn

from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.recursion import require_an_end, resolve, subschemas
from helexa.text.grammar.unions import exclusive

MAX_CHARS: Final = 131_072  # of the schema as JSON
MAX_DEPTH: Final = 80  # of the schema as JSON; each nested object of the answer takes two
MAX_PROPERTIES: Final = 500  # of one object
MAX_CHOICES: Final = 5_000  # of all enum and anyOf lists together
MAX_ALTERNATIVES: Final = 100  # of one anyOf, oneOf or allOf
MAX_COUNT: Final = 100_000  # items, characters or properties
MAX_PATTERN_CHARS: Final = 1_000
MAX_PATTERN_COUNT: Final = 1_000
MAX_MULTIPLE: Final = 10_000  # of all multipleOf together, in units of their last digit

FORMATS: Final = frozenset(
    "date-time time date duration email hostname ipv4 ipv6 uuid uri".split()
)  # others say nothing about the answer
_ANNOTATIONS: Final = frozenset(
    "title description default examples example deprecated readOnly writeOnly discriminator "
    "contentEncoding contentMediaType $comment".split()
)
_COUNTS: Final = frozenset(
    "minItems maxItems minLength maxLength minProperties maxProperties".split()
)
_LISTS: Final = frozenset("anyOf oneOf allOf enum".split())
_OTHERS: Final = frozenset(
    "type const properties required additionalProperties patternProperties items prefixItems "
    "additionalItems pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
    "$ref $defs definitions $schema $id".split()
)
SUPPORTED: Final = _COUNTS | _LISTS | _OTHERS
_REPEAT: Final = re.compile(r"\{(\d+)(?:,(\d*))?\}")

Schema = Any


def checked(schema: object, param: str) -> Schema:
    """A copy of a schema without what says nothing about the answer, its references in place.

    Raises UnsupportedGrammar, for the request field ``param``, naming what is not supported.
    """
    check = _Check(param)
    check.size(schema)
    copy = check.clean(schema, top=True)
    if isinstance(copy, dict):
        check.references(copy)
        if problem := require_an_end(copy):
            check.refuse(problem, "let the recursion stop: make the property optional")
        _simplify(copy)
    return copy


def _simplify(schema: dict[str, Any]) -> None:
    """Write ``oneOf`` as ``anyOf`` where that says the same."""
    for node in every_schema(schema):
        alternatives: Any = node.get("oneOf")
        free = isinstance(alternatives, list) and "anyOf" not in node
        if free and exclusive(schema, alternatives):
            node["anyOf"] = node.pop("oneOf")


class _Check:
    """One walk over one schema."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._choices = 0
        self._multiple = 1

    def refuse(self, fact: str, hint: str = "") -> NoReturn:
        raise UnsupportedGrammar(f"the schema {fact}", param=self._param, hint=hint)

    def size(self, schema: object) -> None:
        """Bound everything that follows: nothing deeper, longer or stranger than this comes in."""
        if not isinstance(schema, Mapping | bool):
            self.refuse(f"must be an object, not {type(schema).__name__}", "pass a JSON schema")
        level: list[Any] = [schema]
        for _ in range(MAX_DEPTH):
            level = [child for value in level for child in _children(value)]
            if not level:
                break
        else:
            self.refuse(f"is nested more than {MAX_DEPTH} levels deep", "flatten it, or use $ref")
        try:
            chars = len(json.dumps(schema, allow_nan=False))
        except (TypeError, ValueError) as error:
            self.refuse(f"is not JSON: {error}")
        if chars > MAX_CHARS:
            self.refuse(f"has {chars} characters, at most {MAX_CHARS} are compiled", "shorten it")

    def clean(self, schema: Any, *, top: bool = False) -> Schema:
        """A copy of a schema and of all within, of keywords that are known to be supported."""
        if not isinstance(schema, Mapping):
            return schema
        kept = {
            key: value
            for key, value in schema.items()
            if key not in _ANNOTATIONS and key[:2] != "x-"
        }
        if "$id" in kept:
            if not top:
                self.refuse("has '$id' inside", "refer to parts by '#/$defs/…'")
            del kept["$id"]
        if isinstance(kept.get("format"), str) and kept["format"] not in FORMATS:
            del kept["format"]
        for key, value in kept.items():
            self._keyword(key, value)
        self._properties(kept)
        return {key: self._value(key, value) for key, value in kept.items()}

    def _value(self, key: str, value: Any) -> Any:
        """The value of a keyword with the schemas in it cleaned."""
        cleaned = {id(child): self.clean(child) for child in subschemas(key, value)}
        if id(value) in cleaned:
            return cleaned[id(value)]
        if isinstance(value, Mapping) and cleaned:
            return {name: cleaned.get(id(child), child) for name, child in value.items()}
        if isinstance(value, list | tuple) and cleaned:
            return [cleaned.get(id(child), child) for child in value]
        return value

    def _keyword(self, key: str, value: Any) -> None:
        if key not in SUPPORTED:
            close = get_close_matches(key, SUPPORTED, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]!r}?" if close else "leave it out"
            self.refuse(f"uses {key!r}, which cannot be enforced", hint)
        if key in _COUNTS and isinstance(value, int) and value > MAX_COUNT:
            self.refuse(f"has {key} {value}, at most {MAX_COUNT} can be counted")
        if key in _LISTS and isinstance(value, list | tuple):
            self._list(key, len(value))
        if key == "multipleOf":
            self._multiple_of(value)
        if key == "pattern" and isinstance(value, str):
            self._pattern(value)
        if key == "patternProperties" and isinstance(value, Mapping):
            for pattern in value:
                self._pattern(str(pattern))

    def _list(self, key: str, length: int) -> None:
        self._choices += length
        if self._choices > MAX_CHOICES:
            self.refuse(
                f"lists more than {MAX_CHOICES} choices in all (enum, anyOf)", "use a pattern"
            )
        if key != "enum" and length > MAX_ALTERNATIVES:
            self.refuse(f"has {length} schemas in one {key}, at most {MAX_ALTERNATIVES} are taken")

    def _multiple_of(self, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            self.refuse("has a multipleOf that is not a number above 0")
        exact = Fraction(str(value))
        self._multiple = lcm(self._multiple, exact.numerator)
        if self._multiple > MAX_MULTIPLE or exact.denominator > MAX_MULTIPLE:
            self.refuse(f"has a multipleOf that is too costly to enforce ({value})", "leave it out")

    def _pattern(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN_CHARS:
            self.refuse(
                f"has a pattern of {len(pattern)} characters, at most {MAX_PATTERN_CHARS} are taken"
            )
        for counts in _REPEAT.findall(pattern):
            if any(count and int(count) > MAX_PATTERN_COUNT for count in counts):
                self.refuse(
                    f"has a pattern that repeats a part more than {MAX_PATTERN_COUNT} times",
                    "use minLength and maxLength",
                )

    def _properties(self, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and len(properties) > MAX_PROPERTIES:
            self.refuse(
                f"has {len(properties)} properties in one object, at most {MAX_PROPERTIES} fit"
            )
        least, required = schema.get("minProperties"), schema.get("required")
        known = len(required) if isinstance(required, list | tuple) else 0
        if isinstance(least, int) and least > max(1, known):
            self.refuse("uses 'minProperties' beyond what is required, which cannot be enforced")

    def references(self, schema: dict[str, Any]) -> None:
        """Every reference must lead to a place in this schema."""
        for node in every_schema(schema):
            target = node.get("$ref")
            if target is None:
                continue
            if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
                self.refuse(
                    f"refers to {target!r:.80}, and nothing outside of it is fetched",
                    "put what it refers to under '$defs' and refer to '#/$defs/…'",
                )
            if not isinstance(resolve(schema, target), Mapping | bool):
                self.refuse(f"refers to {target!r:.80}, which is not in it")


def every_schema(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """A cleaned schema and all those within, those with keywords."""
    found = [schema]
    for node in found:  # which grows meanwhile
        for key, value in node.items():
            found += [child for child in subschemas(key, value) if isinstance(child, dict)]
    return found


def _children(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
