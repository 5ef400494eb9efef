"""Settings declared once: what a value must be, its default and its meaning.

A settings class is a frozen dataclass whose fields are made with `setting`, `section`, `rows` or
`table`. `read_settings` fills one from `Node`s, which remember where each value was given, so that
a problem can name the key or the environment variable a person wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Node:
    """A value, or a table of named nodes, and where it was given."""

    value: Any
    label: str

    @classmethod
    def of(cls, raw: object, label: str = "") -> Node:
        """The nodes of parsed TOML or JSON; a key below ``label`` is ``label.key``."""
        if not isinstance(raw, dict):
            return cls(raw, label)
        prefix = f"{label}." if label else ""
        return cls({key: cls.of(item, f"{prefix}{key}") for key, item in raw.items()}, label)

    @property
    def is_table(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def raw(self) -> Any:
        """The plain value."""
        if self.is_table:
            return {key: node.raw for key, node in self.value.items()}
        return self.value

    def over(self, weaker: Node) -> Node:
        """Both tables in one; where they disagree, this one counts."""
        if not (self.is_table and weaker.is_table):
            return self
        mine, theirs = self.value, weaker.value
        merged = theirs | {
            key: node.over(theirs[key]) if key in theirs else node for key, node in mine.items()
        }
        return replace(self, value=merged)

    def clashes(self, other: Node) -> list[tuple[str, str]]:
        """The labels of what both give."""
        if not (self.is_table and other.is_table):
            return [(self.label, other.label)]
        shared = self.value.keys() & other.value.keys()
        return [
            pair for key in sorted(shared) for pair in self.value[key].clashes(other.value[key])
        ]


@dataclass(slots=True)
class Findings:
    """What reading came upon: problems that stop a start, and keys that mean nothing."""

    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def wrong(self, label: str, wanted: str, value: object) -> None:
        self.problems.append(f"{label}: expected {wanted}, got {shown(value)}")


def shown(value: object) -> str:
    """A value as a person would have written it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True, slots=True)
class Kind:
    """What a single value must be: ``accept`` says whether a value will do."""

    wanted: str
    accept: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value

    @property
    def is_text(self) -> bool:
        """Whether an environment variable is taken as it is, even if it looks like a number."""
        return self.accept("text")


def whole(at_least: int = 0, at_most: int | None = None) -> Kind:
    """An integer in a range; true and 1.0 are none."""
    if at_most is not None:
        wanted = f"an integer from {at_least} to {at_most}"
    else:
        wanted = {0: "a non-negative integer", 1: "a positive integer"}[at_least]
    limit = math.inf if at_most is None else at_most

    def accept(value: Any) -> bool:
        return type(value) is int and at_least <= value <= limit

    return Kind(wanted, accept)


def number(*, positive: bool = False) -> Kind:
    """A finite number, from 0 or above it; read as a float."""

    def accept(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return bool(value > 0 if positive else value >= 0)

    return Kind("a positive number" if positive else "a non-negative number", accept, float)


def text(*, empty: bool = True) -> Kind:
    """A string, or one that is not empty."""
    wanted = "a string" if empty else "a non-empty string"
    return Kind(wanted, lambda value: isinstance(value, str) and (empty or bool(value)))


def flag() -> Kind:
    """True or false."""
    return Kind("true or false", lambda value: isinstance(value, bool))


def wholes() -> Kind:
    """A list of integers from 0."""

    def accept(value: Any) -> bool:
        return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)

    return Kind("a list of non-negative integers", accept, tuple)


@dataclass(frozen=True, slots=True)
class Nested:
    """A settings class below a key: once, in a list of tables, or under names of one's choice."""

    settings: type
    many: str = ""  # "", "rows" or "table"


def setting(kind: Kind, default: Any, doc: str, *, default_text: str = "") -> Any:
    """A field for one value; ``default_text`` describes a default that depends on others."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "default_text": default_text})


def required(kind: Kind, doc: str) -> Any:
    """A field for a value that must be given."""
    return field(metadata={"kind": kind, "doc": doc, "required": True})


def section(settings: type) -> Any:
    """A field for a table that is itself a settings class."""
    return field(default_factory=settings, metadata={"kind": Nested(settings)})


def rows(settings: type, default: tuple[Any, ...], doc: str, *, default_text: str = "[]") -> Any:
    """A field for a list of tables, read as a tuple of ``settings``."""
    kind = Nested(settings, "rows")
    metadata = {"kind": kind, "doc": doc, "default_text": default_text}
    return field(default=default, metadata=metadata)


def table(settings: type, doc: str) -> Any:
    """A field for tables under names of one's choice, read as a mapping to ``settings``."""
    return field(default_factory=dict, metadata={"kind": Nested(settings, "table"), "doc": doc})


def settings_of(settings: type) -> dict[str, Field[Any]]:
    """The fields that can be set, by name."""
    return {entry.name: entry for entry in fields(settings) if "kind" in entry.metadata}


def kind_at(settings: type, path: tuple[str, ...]) -> Kind | Nested | None:
    """What belongs at a path of keys; None if nothing does."""
    entry = settings_of(settings).get(path[0])
    kind: Kind | Nested | None = None if entry is None else entry.metadata["kind"]
    rest = path[1:]
    if isinstance(kind, Nested) and kind.many == "table":
        rest = rest[1:]
    if not rest:
        return kind
    if isinstance(kind, Nested) and kind.many != "rows":
        return kind_at(kind.settings, rest)
    return None


def read_settings(settings: type[T], node: Node, found: Findings) -> T:
    """An instance of ``settings`` from a table; what is wrong keeps its default and is noted."""
    if not node.is_table:
        found.wrong(node.label, "a table", node.raw)
        node = Node({}, node.label)
    given: dict[str, Any] = {}
    entries = settings_of(settings)
    found.unknown += [child.label for key, child in node.value.items() if key not in entries]
    for name, entry in entries.items():
        if name in node.value:
            read_into(given, name, entry.metadata["kind"], node.value[name], found)
        elif entry.metadata.get("required"):
            found.problems.append(f"{f'{node.label}.' if node.label else ''}{name}: is missing")
        if entry.metadata.get("required"):
            given.setdefault(name, "")  # so that the rest is checked too
    return settings(**given)


def read_into(
    given: dict[str, Any], name: str, kind: Kind | Nested, node: Node, found: Findings
) -> None:
    """Put what ``node`` holds into ``given``, unless it is not of its kind."""
    if isinstance(kind, Kind):
        if kind.accept(node.raw):
            given[name] = kind.convert(node.raw)
        else:
            found.wrong(node.label, kind.wanted, node.raw)
        return
    if kind.many == "rows":
        if not isinstance(node.value, list):
            found.wrong(node.label, "a list of tables", node.raw)
            return
        items = [Node.of(item, f"{node.label}[{i}]") for i, item in enumerate(node.value)]
        given[name] = tuple(read_settings(kind.settings, item, found) for item in items)
    elif kind.many == "table" and node.is_table:
        given[name] = {
            key: read_settings(kind.settings, child, found) for key, child in node.value.items()
        }
    elif kind.many == "table":
        found.wrong(node.label, "a table", node.raw)
    else:
        given[name] = read_settings(kind.settings, node, found)
