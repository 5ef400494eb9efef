"""Settings declared once: what a value must be, its default and its meaning.

A settings class is a frozen dataclass whose fields are made with `setting`, `section`, `rows` or
`table`. `read_settings` fills one from `Node`s, which remember where each value was given, so that
a problem can name the key or the environment variable a person wrote. Of a secret that is none, no
problem shows the value.
"""

from __future__ import annotations

import json
import sys
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

    def wrong(self, label: str, wanted: str, value: object, *, secret: bool = False) -> None:
        got = sort_of(value) if secret else shown(value)
        self.problems.append(f"{label}: expected {wanted}, got {got}")


def shown(value: object) -> str:
    """A value as a person would have written it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python does not print an integer of many thousand digits
        return "a number of very many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def sort_of(value: object) -> str:
    """What sort of value it is, and nothing of what it says."""
    if value == "":
        return "an empty string"
    sorts = {str: "another string", bool: "a boolean", list: "a list", dict: "a table"}
    return sorts.get(type(value), "a number or a date")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a single value must be: ``accept`` says whether a value will do.

    ``is_text``: an environment variable is taken as it is, even if it looks like a number.
    ``secret``: no message and no ``repr`` shows the value.
    """

    wanted: str
    accept: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    is_text: bool = False
    secret: bool = False


def whole(at_least: int = 0, at_most: int | None = None) -> Kind:
    """An integer in a range; true and 1.0 are none."""
    if at_most is not None:
        wanted = f"an integer from {at_least} to {at_most}"
    else:
        wanted = {0: "a non-negative integer", 1: "a positive integer"}[at_least]
    limit = 2**63 - 1 if at_most is None else at_most  # TOML promises no more

    def accept(value: Any) -> bool:
        return type(value) is int and at_least <= value <= limit

    return Kind(wanted, accept)


def number(*, positive: bool = False) -> Kind:
    """A finite number, from 0 or above it; read as a float."""

    def accept(value: Any) -> bool:
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            return False
        return bool(value > 0 if positive else value >= 0)

    return Kind("a positive number" if positive else "a non-negative number", accept, float)


def text(
    wanted: str = "",
    accept: Callable[[str], bool] = lambda _: True,
    *,
    empty: bool = True,
    convert: Callable[[str], Any] = lambda value: value,
    secret: bool = False,
) -> Kind:
    """A string, or one that is not empty, or one that ``accept`` takes and ``wanted`` describes."""

    def fits(value: Any) -> bool:
        return isinstance(value, str) and (accept(value) if value else empty)

    wanted = wanted or ("a string" if empty else "a non-empty string")
    return Kind(wanted, fits, convert, is_text=True, secret=secret)


def texts() -> Kind:
    """A list of strings."""

    def accept(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    return Kind("a list of strings", accept, tuple)


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
    metadata = {"kind": kind, "doc": doc, "default_text": default_text}
    return field(default=default, repr=not kind.secret, metadata=metadata)


def required(kind: Kind, doc: str) -> Any:
    """A field for a value that must be given."""
    metadata = {"kind": kind, "doc": doc, "required": True}
    return field(repr=not kind.secret, metadata=metadata)


def section(settings: type) -> Any:
    """A field for a table that is itself a settings class."""
    return field(default_factory=settings, metadata={"kind": Nested(settings)})


def optional(settings: type) -> Any:
    """A field for a table that is None unless it is given."""
    return field(default=None, metadata={"kind": Nested(settings)})


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


def holds_secrets(settings: type) -> bool:
    """Whether one of its values, at any depth, must not be shown."""
    kinds = [entry.metadata["kind"] for entry in settings_of(settings).values()]
    return any(
        kind.secret if isinstance(kind, Kind) else holds_secrets(kind.settings) for kind in kinds
    )


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
    is_table = node.is_table
    if not is_table:
        found.wrong(node.label, "a table", node.raw, secret=holds_secrets(settings))
        node = Node({}, node.label)
    given: dict[str, Any] = {}
    entries = settings_of(settings)
    found.unknown += [child.label for key, child in node.value.items() if key not in entries]
    for name, entry in entries.items():
        if name in node.value:
            read_into(given, name, entry.metadata["kind"], node.value[name], found)
        elif entry.metadata.get("required") and is_table:
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
            found.wrong(node.label, kind.wanted, node.raw, secret=kind.secret)
        return
    secret = holds_secrets(kind.settings)
    if kind.many == "rows":
        if not isinstance(node.value, list):
            found.wrong(node.label, "a list of tables", node.raw, secret=secret)
            return
        items = [Node.of(item, f"{node.label}[{i}]") for i, item in enumerate(node.value)]
        given[name] = tuple(read_settings(kind.settings, item, found) for item in items)
    elif kind.many == "table" and node.is_table:
        given[name] = {
            key: read_settings(kind.settings, child, found) for key, child in node.value.items()
        }
    elif kind.many == "table":
        found.wrong(node.label, "a table", node.raw, secret=secret)
    else:
        given[name] = read_settings(kind.settings, node, found)
