"""The model of a body, found and replaced without touching anything else."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.proxy.body import parse, parsed_bytes, with_model
from helexa.http.body import Yielding

ODD = (
    b' { "a" : 1e400 , "big":123456789012345678901234567890,"model" : "alias" ,'
    b'"n":{"model":"inner","x":[1.10,-0]},"esc\\u0061ped":"\\ud83d", "model":"again"}\n'
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_g087_only_the_model_changes() -> None:
    assert with_model(ODD, "Org/Näme") == ODD.replace(b'"alias"', '"Org/Näme"'.encode()).replace(
        b'"again"', '"Org/Näme"'.encode()
    )


@given(st.dictionaries(st.text(), values, max_size=5), st.text(min_size=1), st.booleans())
def test_g087_any_object(others: dict[str, Any], model: str, indented: bool) -> None:
    model = model.encode("utf-8", "replace").decode()
    body = others | {"model": "x"}
    text = json.dumps(body, indent=1 if indented else None)
    changed = json.loads(with_model(text.encode(), model))
    assert changed == body | {"model": model}
    assert list(changed) == list(body)


TRICKY = st.sampled_from(["model", 'x"model', '"model"', "model\\", '\\"model":"y"', "m"])
SPELLED = st.sampled_from(['"model"', '"mode\\u006c"', '"\\u006Dodel"', '"\\u006dodel"'])


@given(st.lists(st.tuples(TRICKY, TRICKY | st.dictionaries(TRICKY, TRICKY))), SPELLED, st.data())
def test_g087_whatever_looks_like_it(
    others: list[tuple[str, Any]], spelled: str, data: st.DataObject
) -> None:
    members = [f"{json.dumps(key)} : {json.dumps(value)}" for key, value in others]
    before = data.draw(st.integers(0, len(members)))
    members.insert(before, f'{spelled}: "the \\"old\\""')
    changed = "{" + ",".join(members) + "}"
    expected = [
        (key, "new" if key == "model" else value)
        for key, value in json.loads(changed, object_pairs_hook=list)
    ]
    found = with_model(changed.encode(), "new").decode()
    assert json.loads(found, object_pairs_hook=list) == expected


def test_a_value_of_many_parts_is_much_larger_than_its_text() -> None:
    body = b'{"messages":[' + b",".join([b'{"role":"user","content":"x"}'] * 20_000) + b"]}"
    tracemalloc.start()
    value = parse(body)
    took = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(value["messages"]) == 20_000
    assert took > 5 * len(body)
    assert 0.5 * took < parsed_bytes(body) < 2 * took
    assert parsed_bytes(b'"' + b"x" * 1000 + b'"') == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff{}", b'{"a":1}x', b"\xef\xbb\xbf{}", b"[" * 10_000 + b"]" * 10_000],
    ids=["empty", "half", "not utf-8", "more behind it", "byte order mark", "nested"],
)
@pytest.mark.parametrize("decoder", [json.JSONDecoder(), Yielding()], ids=["fast", "yielding"])
def test_what_is_no_json_is_nothing(data: bytes, decoder: json.JSONDecoder) -> None:
    assert parse(data, decoder) is None


@given(values)
def test_both_readers_agree(value: Any) -> None:
    data = json.dumps(value).encode()
    assert parse(data) == parse(data, Yielding())
