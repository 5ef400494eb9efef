"""Heads: what is read from them, what is refused, and that nothing can be smuggled into one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.http.headers import Headers
from helexa.http.heads import (
    RequestHead,
    find_head_end,
    parse_request,
    parse_response,
    write_request,
    write_response,
)
from helexa.refusals import HeadersTooLarge, Refusal

POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
SMUGGLING = {
    "both_lengths": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    "two_lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
    "equal_lengths": POST + b"content-length: 5\r\nContent-Length: 5\r\n\r\n",
    "lengths_apart": POST + b"content-length: 5\r\nx: y\r\ncontent-length: 5\r\n\r\n",
    "list_of_lengths": POST + b"content-length: 5, 5\r\n\r\n",
    "signed_length": POST + b"content-length: +5\r\n\r\n",
    "negative_length": POST + b"content-length: -5\r\n\r\n",
    "hex_length": POST + b"content-length: 0x5\r\n\r\n",
    "empty_length": POST + b"content-length: \r\n\r\n",
    "unknown_coding": POST + b"transfer-encoding: xchunked\r\n\r\n",
    "two_codings": POST + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "coding_twice": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
    "chunked_1_0": b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
    "folded": GET + b"x-a: 1\r\n 2\r\n\r\n",
    "folded_tab": GET + b"x-a: 1\r\n\t2\r\n\r\n",
    "folded_first": b"GET / HTTP/1.1\r\n host: x\r\n\r\n",
    "space_before_colon": b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    "space_in_name": GET + b"x a: 1\r\n\r\n",
    "nul_in_value": GET + b"x-a: 1\x002\r\n\r\n",
    "nul_in_name": GET + b"x\x00a: 1\r\n\r\n",
    "nul_in_target": b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
    "bare_cr": GET + b"x-a: 1\r2\r\n\r\n",
    "no_host": b"GET / HTTP/1.1\r\n\r\n",
    "two_hosts": GET + b"host: y\r\n\r\n",
    "http_2": b"PRI * HTTP/2.0\r\n\r\n",
    "http_0_9": b"GET /\r\n\r\n",
    "http_1_7": b"GET / HTTP/1.7\r\nhost: x\r\n\r\n",
    "two_spaces": b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n",
    "relative_target": b"GET x HTTP/1.1\r\nhost: x\r\n\r\n",
    "fragment": b"GET /#a HTTP/1.1\r\nhost: x\r\n\r\n",
    "connect": b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "no_host_in_url": b"GET http:///x HTTP/1.1\r\nhost: x\r\n\r\n",
    "query_only": b"GET ?x HTTP/1.1\r\nhost: x\r\n\r\n",
}
BARE_LINE_FEEDS = {
    "bare_lf_line": b"GET / HTTP/1.1\nhost: x\r\n\r\n",
    "bare_lf_field": b"GET / HTTP/1.1\r\nhost: x\nx-a: 1\r\n\r\n",
    "bare_lf_end": GET + b"\n",
    "only_lf": b"GET / HTTP/1.1\nhost: x\n\n",
}


def parse(head: bytes) -> RequestHead:
    return parse_request(head, max_fields=128, max_target_bytes=16384)


@pytest.mark.parametrize("head", SMUGGLING.values(), ids=SMUGGLING)
def test_two_readings_of_one_head_are_refused(head: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse(head)
    assert caught.value.status == 400


@pytest.mark.parametrize("head", BARE_LINE_FEEDS.values(), ids=BARE_LINE_FEEDS)
def test_a_bare_line_feed_is_refused_as_soon_as_it_comes(head: bytes) -> None:
    with pytest.raises(Refusal):
        for size in range(1, len(head) + 1):
            find_head_end(bytearray(head[:size]), size - 1)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a%2Fb?x=%20&y", "/a%2Fb", "x=%20&y"),
        ("//a", "//a", ""),
        ("/a?b?c", "/a", "b?c"),
        ("http://x/a?b", "/a", "b"),
        ("HTTP://x:80", "/", ""),
        ("http://x?b", "/", "b"),
        ("*", "*", ""),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    head = parse(f"OPTIONS {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert (head.method, head.path, head.query) == ("OPTIONS", path, query)


def test_what_a_head_says() -> None:
    head = parse(b"POST /p HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:2\r\ncontent-length: 7\r\n\r\n")
    assert head.headers.all("X-A") == ["1", "2"]
    assert head.headers.get("x-b") is None
    assert (head.keep_alive, head.chunked, head.content_length) == (True, False, 7)
    closing = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: TE, Close\r\n\r\n"
    assert not parse(closing).keep_alive
    assert not parse(b"GET / HTTP/1.0\r\n\r\n").keep_alive
    assert parse(b"GET / HTTP/1.1\r\nhost: x\r\nexpect: 100-Continue\r\n\r\n").expects_continue


def test_secrets_are_not_printed() -> None:
    assert "hidden" not in repr(Headers([(b"authorization", b"hidden")]))


def test_limits_of_a_head() -> None:
    fields = b"".join(b"x-%d: 1\r\n" % n for n in range(127))
    parse(b"GET / HTTP/1.1\r\nhost: x\r\n" + fields + b"\r\n")
    with pytest.raises(HeadersTooLarge):
        parse(b"GET / HTTP/1.1\r\nhost: x\r\ny: 1\r\n" + fields + b"\r\n")
    parse(b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 16383))
    with pytest.raises(HeadersTooLarge):
        parse(b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 16384))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for head in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n" + data + b"\r\n\r\n"):
        for read in (lambda h: parse(h), lambda h: parse_response(h, max_fields=9)):
            try:
                end = find_head_end(bytearray(head), 0)
                read(head[:end])
            except Refusal:
                pass


@pytest.mark.parametrize(
    "framing", ["content-length: 1\r\ntransfer-encoding: chunked", "a: b\r\n c"]
)
def test_answers_are_read_as_strictly(framing: str) -> None:
    with pytest.raises(Refusal):
        parse_response(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode(), max_fields=9)


@pytest.mark.parametrize(
    ("method", "status", "framing", "kind"),
    [
        ("GET", 200, "content-length: 3", "LengthBody"),
        ("GET", 200, "transfer-encoding: chunked", "ChunkedBody"),
        ("GET", 200, "x: y", "EndlessBody"),
        ("HEAD", 200, "content-length: 3", "LengthBody"),
        ("GET", 304, "content-length: 3", "LengthBody"),
    ],
)
def test_where_an_answer_ends(method: str, status: int, framing: str, kind: str) -> None:
    head = parse_response(f"HTTP/1.1 {status} OK\r\n{framing}\r\n\r\n".encode(), max_fields=9)
    body = head.body(method)
    assert type(body).__name__ == kind
    assert body.done == (method == "HEAD" or status == 304)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_nothing_written_can_be_two_heads(name: bytes, value: bytes) -> None:
    try:
        head = write_response(200, [(name, value)])
    except ValueError:
        return
    assert head.count(b"\r\n") == 3
    assert head.count(b"\n") == 3
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/a b"), ("G T", "/"), ("GET", "/\r\n"), ("GET", "")]
)
def test_a_request_line_stays_one(method: str, target: str) -> None:
    with pytest.raises(ValueError):
        write_request(method, target, [])
