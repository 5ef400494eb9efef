"""JSON bodies: what is taken, and what each refusal says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.http import Headers, Request, Response, json_response, parse_json, require_json, serving
from helexa.refusals import MalformedJson, UnsupportedMediaType
from tests.http.wire import ask, post

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_json_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{not json", b"{} {}", b"nul", b"[1,]", b"NaN", b"[Infinity]", b"-Infinity"),
        b"1" * 5000,
        *(b'"\xff"', "{}".encode("utf-16"), b"\xef\xbb\xbf{}", b'"\\ud800"', b'"\\uDFFF x"'),
    ],
)
def test_n019_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedJson):
        parse_json(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        parse_json(data)
    except MalformedJson as error:
        assert error.message


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_n019_nesting(opening: bytes, closing: bytes) -> None:
    core = b"1" if opening == b"[" else b"{}"
    extra = 0 if opening == b"[" else 1
    parse_json(opening * (128 - extra) + core + closing * (128 - extra))
    for depth in (129, 1000, 100_000):
        with pytest.raises(MalformedJson, match="128 deep"):
            parse_json(opening * depth + core + closing * depth)


def test_many_brackets_are_not_deep() -> None:
    assert parse_json(b"[" + b"[[]]," * 500 + b"1]") == [[[]]] * 500 + [1]
    assert parse_json(json.dumps("[" * 500).encode()) == "[" * 500


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"],
)
def test_types_that_are_json(kind: str) -> None:
    require_json(Headers([(b"content-type", kind.encode()), (b"content-encoding", b"identity")]))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"")],
        [(b"content-type", b"text/x+json")],
        [(b"content-type", b"application/+json")],
        [(b"content-type", b"application/jsonx")],
        [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")],
    ],
)
def test_n019_types_that_are_not(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UnsupportedMediaType):
        require_json(Headers(fields))


@pytest.mark.anyio
async def test_n019_body_shapes_on_the_wire() -> None:
    async def parsed(request: Request) -> Response:
        return json_response(await request.json())

    typed = post(b"{}")
    cases = [
        (post(b"{not json"), 400, "malformed_json"),
        (typed.replace(b"content-type: application/json\r\n", b""), 415, "unsupported_media_type"),
        (typed.replace(b"application/json", b"text/plain"), 415, "unsupported_media_type"),
        (post(b"{}", "content-encoding: gzip"), 415, "unsupported_media_type"),
        (post(b"[" * 129 + b"]" * 129), 400, "malformed_json"),
    ]
    async with serving(parsed) as server:
        for wire, status, code in cases:
            answer = await ask(server, wire)
            assert (answer.status, answer.error["code"]) == (status, code)
            assert answer.error["message"]
            assert answer.error["type"] == "invalid_request_error"
        assert (await ask(server, post('{"é":"\\u00e9"}'.encode()))).body == '{"é":"é"}'.encode()


@given(VALUES)
def test_the_reader_that_yields_reads_the_same(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), yielding=True) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), yielding=True) == value


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{not json", b"{} {}", b"nul", b"[1,]", b"NaN", b"[Infinity]", b"-Infinity"),
        *(b"1" * 5000, b'"\xff"', b"\xef\xbb\xbf{}", b'"\\ud800"', b'[{"\\uDFFF x": 1}]'),
        *(b"[" * 129 + b"]" * 129, b"[" * 100_000),
    ],
)
def test_the_reader_that_yields_refuses_the_same(data: bytes) -> None:
    said = []
    for yielding in (False, True):
        with pytest.raises(MalformedJson) as refusal:
            parse_json(data, yielding=yielding)
        said.append(str(refusal.value))
    assert said[0] == said[1]
