"""Typed data as JSON and back, for messages between a host and its child.

Both directions follow the fields of dataclasses, so a message is described in one place: its class.
What arrives is checked against it; nothing is executed, and nothing but data is ever made.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any, Literal, TypeVar, Union

from helexa.errors import HelexaError, ProtocolError

T = TypeVar("T")
SCALARS = frozenset({str, int, float, bool, type(None)})


def to_plain(value: Any) -> Any:
    """Dataclasses as objects, sequences and sets as arrays, errors as what `read_error` reads.

    A field that is its default is left out. ProtocolError for what has no such form.
    """
    kind: type = type(value)
    if kind in SCALARS:  # exactly: this is asked for every number of a step
        return value
    if (fields := _fields(kind)) is not None:
        return {
            name: item if type(item) in SCALARS else to_plain(item)
            for name, default in fields
            if (item := getattr(value, name)) is not default
        }
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, HelexaError):
        return write_error(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(to_plain(item) for item in value)
    if isinstance(value, Sequence):
        if are_ints(value):  # prompts are long
            return list(value)
        return [to_plain(item) for item in value]
    raise ProtocolError(f"a {type(value).__name__} cannot be sent to another process")


def from_plain(kind: Any, data: Any) -> Any:
    """A value of the type ``kind`` from what `to_plain` made of it; ProtocolError if it is none."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _one_of(inner, data)
    if origin is Literal:
        return _checked(data in inner, data, kind)
    if dataclasses.is_dataclass(kind):
        return _instance(kind, _checked(isinstance(data, dict), data, kind))
    if isinstance(kind, type) and issubclass(kind, HelexaError):
        return read_error(_checked(isinstance(data, dict), data, kind))
    if origin is not None:
        return _collection(origin, inner, data)
    if kind is float:
        return float(_checked(_is_number(data), data, kind))
    return _checked(type(data) is kind or (kind is type(None) and data is None), data, kind)


def write_error(error: HelexaError) -> dict[str, Any]:
    """An error by the name of its class and its plain attributes."""
    attributes = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(error).items()
        if isinstance(value, str | int | float | bool | tuple | dict | None)
    }
    return {"class": type(error).__name__, "attributes": attributes}


def read_error(data: Mapping[str, Any]) -> HelexaError:
    """The error, of its own class; of the root class if the name is unknown here."""
    attributes = data.get("attributes")
    if not isinstance(attributes, dict):
        raise ProtocolError(f"an error arrived as {data!r:.200}")
    kind = _error_classes().get(str(data.get("class")), HelexaError)
    error = kind.__new__(kind)
    vars(error).update({n: tuple(v) if isinstance(v, list) else v for n, v in attributes.items()})
    message, hint = str(attributes.get("message", "")), str(attributes.get("hint", ""))
    error.args = (f"{message}; {hint}" if hint else message,)
    return error


def _error_classes() -> dict[str, type[HelexaError]]:
    found: dict[str, type[HelexaError]] = {}
    rest = [HelexaError]
    while rest:
        kind = rest.pop()
        found[kind.__name__] = kind
        rest += kind.__subclasses__()
    return found


def _one_of(kinds: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in kinds:
        return None
    failures = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return from_plain(kind, data)
            except ProtocolError as error:
                failures.append(str(error))
    raise ProtocolError(" / ".join(failures))


def _instance(kind: Any, data: dict[str, Any]) -> Any:
    hints = _hints(kind)
    unknown = data.keys() - hints.keys()
    if unknown:
        raise ProtocolError(f"{kind.__name__} has no field {sorted(unknown)}")
    try:
        return kind(**{name: from_plain(hints[name], value) for name, value in data.items()})
    except TypeError as error:  # a field is missing
        raise ProtocolError(f"{kind.__name__}: {error}") from error


def _collection(origin: Any, inner: tuple[Any, ...], data: Any) -> Any:
    if origin in (dict, Mapping):
        _checked(isinstance(data, dict), data, origin)
        read_key = int if inner[0] is int else str
        return {read_key(key): from_plain(inner[1], value) for key, value in data.items()}
    _checked(isinstance(data, list), data, origin)
    if origin is tuple and inner[1:] != (Ellipsis,):
        _checked(len(data) == len(inner), data, origin)
        return tuple(from_plain(kind, item) for kind, item in zip(inner, data, strict=True))
    if inner[0] is int and are_ints(data):  # prompts are long
        items = data
    else:
        items = [from_plain(inner[0], item) for item in data]
    return frozenset(items) if origin in (frozenset, AbstractSet) else tuple(items)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def are_ints(items: Iterable[Any]) -> bool:
    """Whether all are whole numbers and no booleans, told without a line of Python for each."""
    return set(map(type, items)) <= {int}


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...] | None:
    """Names and defaults of a dataclass; None if it is none."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple((field.name, field.default) for field in dataclasses.fields(kind))


def _is_number(data: Any) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)


def _checked(holds: bool, data: T, kind: Any) -> T:
    if not holds:
        raise ProtocolError(f"{data!r:.80} arrived where {kind} belongs")
    return data
