"""Objects that are written as JSON and read back: a dataclass says what belongs where.

What its fields may be: str, int, float, bool, ``X | None``, ``tuple[X, ...]``, ``dict[str, Any]``,
``Literal`` of texts, and other such objects. Where a reader need not be quick to import, this is
pydantic's work; a gateway has to be there in half a second, a quarter of which that would take.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import (
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

AnyWire = TypeVar("AnyWire", bound="Wire")

Read = Callable[[Any, str], Any]
"""Gives what a JSON value at a place stands for, or raises Unreadable."""


class Unreadable(ValueError):
    """A JSON value that is not what belongs at ``place``; the text never repeats what was sent."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place or 'it'}: {problem}")
        self.place = place


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """An object that goes over a wire; ``OMIT`` are the keys that are left out when empty."""

    OMIT: ClassVar[frozenset[str]] = frozenset()

    def to_wire(self) -> dict[str, Any]:
        """Plain JSON data, every key present but the empty ones of ``OMIT``."""
        pairs = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return {
            name: _plain(value)
            for name, value in pairs
            if name not in self.OMIT or (value is not None and value != ())
        }

    @classmethod
    def read(cls, value: Any) -> Self:
        """The object that JSON data stands for. Raises Unreadable.

        Null counts as absent and unknown keys are ignored, at any depth.
        """
        return _read_object(cls, value, "")


def _plain(value: Any) -> Any:
    if isinstance(value, Wire):
        return value.to_wire()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    read: Read
    required: bool


@cache
def _entries(kind: type[Wire]) -> tuple[_Entry, ...]:
    """How the fields of a kind are read; found out when the first one is."""
    hints = get_type_hints(kind)
    return tuple(
        _Entry(
            field.name,
            _reader(hints[field.name]),
            field.default is field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    )


def _reader(hint: Any) -> Read:
    origin, within = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):  # the latter of `Literal[…] | None`
        (hint,) = (each for each in within if each is not NoneType)
        return _reader(hint)  # nobody reads a null
    if origin is tuple:
        return partial(_read_items, _reader(within[0]))
    if origin is Literal:
        return partial(_read_word, within)
    if isinstance(hint, type) and issubclass(hint, Wire):
        return partial(_read_object, hint)
    return _SINGLE[origin or hint]


def _read_object(kind: type[AnyWire], value: Any, place: str) -> AnyWire:
    found = _read_dict(value, place)
    given = {}
    for entry in _entries(kind):  # type: ignore[arg-type]  # a class is hashable
        item = found.get(entry.name)
        at = f"{place}.{entry.name}" if place else entry.name
        if item is not None:
            given[entry.name] = entry.read(item, at)
        elif entry.required:
            raise Unreadable(at, "is missing")
    return kind(**given)


def _read_items(read: Read, value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Unreadable(place, "must be a list")
    return tuple([read(item, f"{place}.{index}") for index, item in enumerate(value)])


def _read_word(words: tuple[str, ...], value: Any, place: str) -> str:
    for word in words:
        if value == word:
            return word
    raise Unreadable(place, f"must be one of: {', '.join(words)}")


def _read_dict(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(place, "must be an object")
    return value


def _read_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise Unreadable(place, "must be a text")
    return value


def _read_flag(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise Unreadable(place, "must be true or false")
    return value


def _read_whole(value: Any, place: str) -> int:
    """2.0 is a whole number, true is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable(place, "must be a whole number")
    return value


def _read_number(value: Any, place: str) -> float:
    """Finite, and not too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(place, "must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unreadable(place, "must be a finite number")
    return number


_SINGLE: dict[Any, Read] = {
    str: _read_text,
    bool: _read_flag,
    int: _read_whole,
    float: _read_number,
    dict: _read_dict,
}
