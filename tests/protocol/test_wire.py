"""What a reader of wire objects takes, and what it says of the rest."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.protocol import control
from helexa.protocol.json_text import to_json
from helexa.protocol.wire import Unreadable, Wire
from tests.protocol.builders import quick


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf(Wire):
    name: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree(Wire):
    OMIT = frozenset({"said", "leaves"})

    id: str
    on: bool = False
    rate: float = 0.0
    state: Literal["new", "old"] = "new"
    mood: Literal["good", "bad"] | None = None
    said: dict[str, Any] | None = None
    leaves: tuple[Leaf, ...] = ()
    best: Leaf | None = None
    sizes: tuple[int, ...] = ()


KINDS: list[type[Wire]] = [
    Tree,
    *(kind for kind in vars(control).values() if isinstance(kind, type) and kind is not Wire),
]
KINDS = [kind for kind in KINDS if issubclass(kind, Wire)]

NAMES = sorted({field.name for kind in KINDS for field in fields(kind)})
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner)
)
SENDABLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    dict: st.dictionaries(st.text(), st.none() | st.integers() | st.text()),
}


def anything_like(kind: type[Wire]) -> st.SearchStrategy[Wire]:
    """Objects of a kind, each field given or left to its default."""
    hints = get_type_hints(kind)
    always, maybe = {}, {}
    for field in fields(kind):
        needed = field.default is field.default_factory is MISSING
        (always if needed else maybe)[field.name] = values_of(hints[field.name])
    return st.fixed_dictionaries(always, optional=maybe).map(lambda given: kind(**given))


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    origin, within = get_origin(hint), get_args(hint)
    if NoneType in within:
        (kind,) = set(within) - {NoneType}
        return st.none() | values_of(kind)
    if origin is tuple:
        return st.lists(values_of(within[0]), max_size=3).map(tuple)
    if origin is Literal:
        return st.sampled_from(within)
    return SENDABLE[origin or hint] if (origin or hint) in SENDABLE else anything_like(hint)


@quick
@given(st.sampled_from(KINDS).flatmap(anything_like))
def test_what_is_written_is_read_back(thing: Wire) -> None:
    assert type(thing).read(json.loads(to_json(thing.to_wire()))) == thing


@quick
@given(st.sampled_from(KINDS), JSON)
def test_any_json_is_read_or_refused(kind: type[Wire], value: Any) -> None:
    try:
        found = kind.read(value)
    except Unreadable as error:
        assert error.place in str(error)
    else:
        assert isinstance(found, kind)


@quick
@given(st.sampled_from(KINDS), st.data())
def test_nulls_and_unknown_keys_change_nothing(kind: type[Wire], data: st.DataObject) -> None:
    thing = data.draw(anything_like(kind))
    wire = thing.to_wire()
    nulls = {f.name: None for f in fields(kind) if f.name not in wire}
    assert kind.read({**wire, **nulls, "a later key": data.draw(SCALARS)}) == thing


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (5, ""),
        ([], ""),
        (None, ""),
        ({}, "id"),
        ({"id": None}, "id"),
        ({"id": 5}, "id"),
        ({"on": 1}, "on"),
        ({"on": "true"}, "on"),
        ({"rate": "1"}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": 10**400}, "rate"),
        ({"state": "secret"}, "state"),
        ({"state": ["new"]}, "state"),
        ({"mood": ""}, "mood"),
        ({"said": []}, "said"),
        ({"leaves": {}}, "leaves"),
        ({"leaves": "secret"}, "leaves"),
        ({"leaves": [{"name": "a"}, {}]}, "leaves.1.name"),
        ({"leaves": [None]}, "leaves.0"),
        ({"best": {"name": "a", "size": "secret"}}, "best.size"),
        ({"sizes": [1, 2, 1.5]}, "sizes.2"),
        ({"sizes": [None]}, "sizes.0"),
        ({"sizes": [True]}, "sizes.0"),
        ({"sizes": ["secret"]}, "sizes.0"),
        ({"sizes": [float("inf")]}, "sizes.0"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named_and_not_repeated(given: Any, place: str) -> None:
    value = (
        {"id": "x", **given} if isinstance(given, dict) and given and "id" not in given else given
    )
    with pytest.raises(Unreadable) as caught:
        Tree.read(value)
    assert caught.value.place == place
    assert str(caught.value).startswith(f"{place or 'it'}: ")
    assert "secret" not in str(caught.value)


def test_numbers_are_taken_as_their_readers_count() -> None:
    found = Tree.read({"id": "x", "rate": 3, "sizes": [2.0, -1, 0]})
    assert (found.rate, found.sizes) == (3.0, (2, -1, 0))
    assert [type(size) for size in found.sizes] == [int, int, int]
    assert type(found.rate) is float


def test_the_innermost_of_an_any_is_left_alone() -> None:
    said = {"a": None, "b": {"c": [1.0, None, True]}}
    assert Tree.read({"id": "x", "said": said}).said == said


def test_empty_keys_are_left_out_only_where_they_may() -> None:
    wire = Tree(id="", sizes=()).to_wire()
    assert wire == {
        "id": "",
        "on": False,
        "rate": 0.0,
        "state": "new",
        "mood": None,
        "best": None,
        "sizes": [],
    }
