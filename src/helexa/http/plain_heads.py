"""What heads say, and the quick way to read those that have nothing unusual.

Usual is what clients and servers do send: an absolute path, one space behind each colon, visible
ASCII, no name twice. Of anything else, good or bad, nothing is said here: h11 decides (`heads`).
What is read here is what h11 would have read; a test compares them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from helexa.http.framing import Body, ChunkedBody, EndlessBody, LengthBody
from helexa.http.headers import Field, Headers

_REQUEST_LINE = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) (/[!\"$->@-~]*)(?:\?([!\"$-~]*))? HTTP/1\.1\r\n"
)
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [ -~]*\r\n")
_FIELD_LINE = re.compile(rb"(?<=\r\n)([-!#$%&'*+.^_`|~0-9a-zA-Z]+): ([!-~](?:[ -~]*[!-~])?)\r\n")
_MAX_LENGTH_DIGITS = 15


class RequestHead(NamedTuple):
    """What a request says before its body; ``path`` and ``query`` are still percent-encoded."""

    method: str
    path: str
    query: str
    headers: Headers
    http11: bool
    keep_alive: bool
    chunked: bool
    content_length: int | None
    expects_continue: bool

    def body(self) -> Body:
        """A reader for the body that follows."""
        return ChunkedBody() if self.chunked else LengthBody(self.content_length or 0)


class ResponseHead(NamedTuple):
    """What an answer says before its body."""

    status: int
    headers: Headers
    keep_alive: bool
    chunked: bool
    content_length: int | None

    def body(self, method: str) -> Body:
        """A reader for the body that follows, which depends on what was asked."""
        if method == "HEAD" or self.status in (204, 304):
            return LengthBody(0)
        if self.chunked:
            return ChunkedBody()
        return EndlessBody() if self.content_length is None else LengthBody(self.content_length)


def plain_request(head: bytes, *, max_fields: int, max_target_bytes: int) -> RequestHead | None:
    """What a complete request head says; None if h11 has to look at it."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        return None
    method, path, query = line.groups(b"")
    told = _fields(head, line.end(), max_fields)
    if told is None or len(path) + len(query) >= max_target_bytes or b"host" not in told[1]:
        return None
    headers, by_name, keep_alive, chunked, length = told
    return RequestHead(
        *(method.decode(), path.decode(), query.decode(), headers, True),
        *(keep_alive, chunked, length),
        by_name.get(b"expect", b"").lower() == b"100-continue",
    )


def plain_response(head: bytes, *, max_fields: int) -> ResponseHead | None:
    """What a complete head of a final answer says; None if h11 has to look at it."""
    line = _STATUS_LINE.match(head)
    told = None if line is None else _fields(head, line.end(), max_fields)
    if line is None or told is None:
        return None
    headers, _, keep_alive, chunked, length = told
    return ResponseHead(int(line[1]), headers, keep_alive, chunked, length)


_Told = tuple[Headers, dict[bytes, bytes], bool, bool, int | None]
"""The fields, the same by name, whether the connection may go on, and how the body is framed."""


def _fields(head: bytes, start: int, max_fields: int) -> _Told | None:
    found: list[Field] = _FIELD_LINE.findall(head, start - 2)
    fields = [(name.lower(), value) for name, value in found]
    by_name = dict(fields)
    count = len(fields)
    if len(by_name) < count or count > max_fields:
        return None
    if head.count(b"\r\n") != count + 2 or not head.endswith(b"\r\n\r\n"):
        return None  # a line is no such field
    length, coding = by_name.get(b"content-length"), by_name.get(b"transfer-encoding")
    if length is not None and (len(length) > _MAX_LENGTH_DIGITS or not length.isdigit()):
        return None
    if coding is not None and (coding != b"chunked" or length is not None):
        return None
    return (
        Headers(fields, by_name),
        by_name,
        b"connection" not in by_name or _goes_on(by_name[b"connection"]),
        coding is not None,
        None if length is None else int(length),
    )


def _goes_on(connection: bytes) -> bool:
    if connection == b"keep-alive":
        return True
    return b"close" not in [word.strip() for word in connection.lower().split(b",")]
