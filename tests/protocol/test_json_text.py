from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.protocol.json_text import MAX_DEPTH, check_media, read_json, to_json
from helexa.refusals import MalformedJson, UnsupportedMediaType
from tests.protocol.builders import quick

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)  # fmt: skip


@quick
@given(anything)
def test_what_is_written_is_one_line_and_reads_back(value: Any) -> None:
    body = to_json(value)
    assert len(body.decode("utf-8").splitlines()) <= 1
    # Two halves of a pair side by side are read as the character they make.
    assert json.loads(body) == json.loads(json.dumps(value))


def test_text_stays_readable() -> None:
    assert to_json({"a": "kůň 你"}) == '{"a":"kůň 你"}'.encode()


def test_half_a_pair_is_escaped() -> None:
    assert to_json(["\ud800", "\u2028"]) == b'["\\ud800","\\u2028"]'


def nested(depth: int, inner: str = "") -> bytes:
    return ("[" * depth + inner + "]" * depth).encode()


def test_n019_malformed() -> None:
    for body in (b"{not json", nested(MAX_DEPTH + 1), nested(100_000), b"\xff{}", b"", b"[NaN]"):
        with pytest.raises(MalformedJson) as caught:
            read_json(body)
        assert (caught.value.status, caught.value.code) == (400, "malformed_json")
        assert str(caught.value)


def test_depth_counts_levels_not_brackets() -> None:
    assert read_json(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    wide = nested(1, ",".join(["[]"] * 1000))
    assert len(read_json(wide)) == 1000
    mixed = b'{"a":' * MAX_DEPTH + b"[]" + b"}" * MAX_DEPTH
    with pytest.raises(MalformedJson, match="nested"):
        read_json(mixed)
    assert read_json(b'"' + b"[" * 1000 + b'"') == "[" * 1000


def test_a_number_of_too_many_digits_is_malformed() -> None:
    with pytest.raises(MalformedJson):
        read_json(b"1" * 5000)


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"],
)
def test_json_media_types_are_taken(kind: str) -> None:
    check_media(kind)
    check_media(kind, "identity")


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (None, None),
        ("", None),
        ("text/plain", None),
        ("text/x+json", None),
        ("application/+json", None),
        ("application/jsonx", None),
        ("application/json", "gzip"),
    ],
)
def test_n019_media_types(kind: str | None, encoding: str | None) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        check_media(kind, encoding)
    assert (caught.value.status, caught.value.code) == (415, "unsupported_media_type")
