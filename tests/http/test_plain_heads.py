"""The quick ways with heads, against the slow ones that define them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helexa.http.heads import (
    find_head_end,
    request_by_h11,
    response_by_h11,
    write_response,
)
from helexa.http.plain_heads import RequestHead, ResponseHead, plain_request, plain_response
from helexa.refusals import Refusal
from tests.http.test_heads import BARE_LINE_FEEDS, SMUGGLING

MAX_FIELDS, MAX_TARGET = 6, 40
USUAL = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: x:80\r\nContent-Length: 12\r\n"
    b"Authorization: Bearer abc\r\nAccept: */*, x; q=0.5\r\nConnection: keep-alive\r\n\r\n"
)
NAMES = [b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"x-a"]
NAMES += [b"connection", b"Expect", b"x y", b"x:", b"", b"x\x80", b" x", b"\tx"]
VALUES = [b"x", b"5", b"0005", b"chunked", b"Chunked", b"gzip, chunked", b"close", b"a, Close,b"]
VALUES += [b"keep-alive", b"100-Continue", b"1" * 16, b"+5", b"5,5", b"", b" ", b"a  b", b"a\tb"]
VALUES += [b" a ", b"\xe9", b"a\0", b"a\rb", b"a\nb", b"a\r\n b", b"a\x01b", b"a\x7f", b"a\x0bb"]
SPACES = [b": ", b":", b":  ", b" : ", b":\t", b"\r\n "]
LINES = [b"GET / HTTP/1.1", b"POST /a?b=c?d HTTP/1.1", b"HEAD /%2F?# HTTP/1.1", b"get / HTTP/1.1"]
LINES += [b"GET http://x/ HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET /a#b HTTP/1.1", b"CONNECT x:1"]
LINES += [b"GET / HTTP/1.0", b"GET  / HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"GET / HTTP/1.1 "]
LINES += [b"GET /" + b"a" * 39 + b" HTTP/1.1", b"GET /a?" + b"b" * 37 + b" HTTP/1.1"]
LINES += [b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 204", b"HTTP/1.0 200 OK"]
LINES += [b"HTTP/1.1 100 Continue", b"HTTP/1.1 600 No", b"HTTP/1.1 200 \xe9", b"HTTP/1.1 200  \t"]


GOOD_LINES = [b"GET / HTTP/1.1", b"POST /a?b=c?d HTTP/1.1", b"HTTP/1.1 200 OK"]
GOOD_FIELDS = [
    b"Host: x",
    b"content-length: 0005",
    b"Expect: 100-Continue",
    b"x-a: a  b",
    b"x-b: 1",
]
GOOD_FIELDS += [b"connection: a, Close,b", b"Transfer-Encoding: chunked", b"connection: x"]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Good heads, in which a line, a byte or the end may not be as it should."""
    fields = draw(st.lists(st.sampled_from(GOOD_FIELDS), max_size=6, unique=True))
    lines = [draw(st.sampled_from(GOOD_LINES)), *fields]
    wrong = draw(st.sampled_from(["", "", "line", "field", "byte", "break"]))
    if wrong == "line":
        lines[0] = draw(st.sampled_from(LINES))
    if wrong == "field":
        parts = [draw(st.sampled_from(part)) for part in (NAMES, SPACES, VALUES)]
        lines.insert(draw(st.integers(1, len(lines))), b"".join(parts))
    breaks = [b"\r\n"] * len(lines)
    if wrong == "break":
        breaks[draw(st.integers(0, len(lines) - 1))] = draw(
            st.sampled_from([b"\n", b"\r\r\n", b"", b"\r"])
        )
    head = b"".join(map(b"".join, zip(lines, breaks, strict=True))) + b"\r\n"
    if wrong == "byte":
        at = draw(st.integers(0, len(head) - 1))
        head = head[:at] + draw(st.binary(max_size=1)) + head[at + draw(st.integers(0, 1)) :]
    return head


def by_h11_request(head: bytes) -> RequestHead | None:
    try:
        return request_by_h11(head, MAX_FIELDS, MAX_TARGET)
    except Refusal:
        return None


def by_h11_response(head: bytes) -> ResponseHead | None:
    try:
        return response_by_h11(head, MAX_FIELDS)
    except Refusal:
        return None


def same(ours: RequestHead | ResponseHead, theirs: RequestHead | ResponseHead | None) -> bool:
    if theirs is None or type(ours) is not type(theirs):
        return False
    plain = [field for field in ours if field is not ours.headers]
    return ours.headers.fields == theirs.headers.fields and plain == [
        field for field in theirs if field is not theirs.headers
    ]


@settings(max_examples=400, deadline=None)
@given(heads())
@example(USUAL)
@example(b"HTTP/1.1 200 OK\r\nx y: x\r\n")
def test_what_is_read_quickly_is_what_h11_reads(head: bytes) -> None:
    request = plain_request(head, max_fields=MAX_FIELDS, max_target_bytes=MAX_TARGET)
    assert request is None or same(request, by_h11_request(head))
    response = plain_response(head, max_fields=MAX_FIELDS)
    assert response is None or same(response, by_h11_response(head))


@pytest.mark.parametrize("head", (SMUGGLING | BARE_LINE_FEEDS).values())
def test_what_h11_or_we_refuse_is_not_read_quickly(head: bytes) -> None:
    assert plain_request(head, max_fields=128, max_target_bytes=16384) is None


def test_usual_heads_are_read_quickly() -> None:
    """What the clients of this world send: curl, the OpenAI library, our own relay."""
    curl = b"GET /health HTTP/1.1\r\nHost: localhost:31313\r\nUser-Agent: curl/8.5.0\r\n"
    upload = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    for head in (
        curl + b"Accept: */*\r\n\r\n",
        upload + b"Expect: 100-continue\r\nConnection: close\r\n\r\n",
        USUAL,
    ):
        request = plain_request(head, max_fields=128, max_target_bytes=16384)
        assert request is not None
        assert same(request, request_by_h11(head, 128, 16384))
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    assert plain_response(answer + b"\r\n", max_fields=128) is not None


@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"a", b"\r\n\r\n"]), max_size=8))
def test_where_a_head_ends(parts: list[bytes]) -> None:
    """The whole at once, or byte by byte: the same end, or the same refusal."""
    data = b"GET" + b"".join(parts)

    def found(scanned: int, size: int) -> int | str:
        try:
            return find_head_end(bytearray(data[:size]), scanned)
        except Refusal as error:
            return error.message

    stepwise: int | str = 0
    for size in range(1, len(data) + 1):
        stepwise = stepwise or found(size - 1, size)
    assert found(0, len(data)) == stepwise


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x", b"x-a", b"", b"x y", b"x:", b"\xe9", b"x\r"])
            | st.binary(max_size=3),
            st.sampled_from([b"y", b"", b" ", b"\xff", b"\0", b"\r\n", b"a: b"])
            | st.binary(max_size=3),
        ),
        max_size=4,
    )
)
def test_what_is_written_is_what_the_grammar_allows(fields: list[tuple[bytes, bytes]]) -> None:
    allowed = all(
        re.fullmatch(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+", name) and re.fullmatch(rb"[^\0\r\n]*", value)
        for name, value in fields
    )
    try:
        head = write_response(200, fields)
    except ValueError:
        assert not allowed
    else:
        assert allowed
        lines = [b"%b: %b\r\n" % field for field in fields]
        assert head == b"HTTP/1.1 200 OK\r\n" + b"".join(lines) + b"\r\n"
