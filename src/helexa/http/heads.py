"""Message heads: bytes in, values out, and back.

h11 knows the grammar. What it forgives (bare line feeds, folded lines, repeated lengths, a length
beside chunks) is where two servers come to read one message differently, so it is refused here.
Heads of which no two servers think differently are read without it, by `plain_heads`.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import h11

from helexa.http.headers import Field, Headers
from helexa.http.plain_heads import RequestHead, ResponseHead, plain_request, plain_response
from helexa.refusals import HeadersTooLarge, Refusal, TargetTooLong

_EMPTY_LINE = b"\r\n\r\n"
_END = re.compile(rb"\r\n\r\n|(?<!\r)\n")
_FOLD = re.compile(rb"\r\n[ \t]")
_REPEATED_LENGTH = re.compile(
    rb"\r\ncontent-length:[^\r\n]*(?:,|\r\n(?:.*\r\n)?content-length:)", re.S
)
_TARGET = re.compile(
    r"(?:https?://[^/?#]+(?P<after_host>/[^?#]*)?|(?P<path>/[^?#]*|\*))(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)
_NOT_IN_A_TARGET = re.compile(rb"[\0-\x20\x7f]")
_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_IN_A_LINE = bytes(sorted(set(range(256)) - set(b"\0\r\n")))
_IN_A_NAME = bytes(code for code in range(256) if _NAME.fullmatch(bytes([code])))
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def find_head_end(buffer: bytearray, scanned: int) -> int:
    """Where the first head in the buffer ends; 0 if it is not all there.

    ``scanned`` bytes were looked at before. Raises Refusal at a bare line feed, and at a
    first byte that begins no head (a TLS greeting, say).
    """
    if buffer[0] <= 0x20 or buffer[0] >= 0x7F:
        raise Refusal("this is not HTTP/1.1")
    if not scanned:  # as the search below, without looking at every byte
        end = buffer.find(_EMPTY_LINE) + 4
        if end > 3 and buffer.count(b"\n", 0, end) == buffer.count(b"\r\n", 0, end):
            return end
    found = _END.search(buffer, max(0, scanned - 3))
    if found is None:
        return 0
    if found.end() - found.start() == 1:
        raise Refusal("a line of the head does not end in CR LF")
    return found.end()


def parse_request(head: bytes, *, max_fields: int, max_target_bytes: int) -> RequestHead:
    """Read a complete request head. Raises Refusal or HeadersTooLarge."""
    plain = plain_request(head, max_fields=max_fields, max_target_bytes=max_target_bytes)
    return plain or request_by_h11(head, max_fields, max_target_bytes)


def request_by_h11(head: bytes, max_fields: int, max_target_bytes: int) -> RequestHead:
    """`parse_request` for every head there may be. Raises Refusal or HeadersTooLarge."""
    _check(head, max_fields)
    if head.find(b"\r\n") > max_target_bytes + 64:
        raise TargetTooLong(max_target_bytes)
    event = _read(h11.SERVER, head)
    if not isinstance(event, h11.Request) or event.http_version not in (b"1.0", b"1.1"):
        raise Refusal("this is not a request in HTTP/1.0 or HTTP/1.1")
    if len(event.target) > max_target_bytes:
        raise TargetTooLong(max_target_bytes)
    target = _TARGET.fullmatch(event.target.decode("ascii"))
    if target is None:
        raise Refusal("the request target is neither a path nor an absolute URL")
    http11 = event.http_version == b"1.1"
    headers = Headers(event.headers)
    keep_alive, chunked, length = _framing(headers, http11=http11)
    return RequestHead(
        method=event.method.decode("ascii"),
        path=target["path"] or target["after_host"] or "/",
        query=target["query"] or "",
        headers=headers,
        http11=http11,
        keep_alive=keep_alive,
        chunked=chunked,
        content_length=length,
        expects_continue=http11 and (headers.first(b"expect") or b"").lower() == b"100-continue",
    )


def parse_response(head: bytes, *, max_fields: int) -> ResponseHead:
    """Read a complete response head, also of a 1xx answer. Raises Refusal."""
    return plain_response(head, max_fields=max_fields) or response_by_h11(head, max_fields)


def response_by_h11(head: bytes, max_fields: int) -> ResponseHead:
    """`parse_response` for every head there may be. Raises Refusal."""
    _check(head, max_fields)
    event = _read(h11.CLIENT, head)
    if not isinstance(
        event, h11.Response | h11.InformationalResponse
    ) or event.http_version not in (b"1.0", b"1.1"):
        raise Refusal("this is not an answer in HTTP/1.0 or HTTP/1.1")
    headers = Headers(event.headers)
    http11 = event.http_version == b"1.1"
    return ResponseHead(event.status_code, headers, *_framing(headers, http11=http11))


def _check(head: bytes, max_fields: int) -> None:
    if head.count(b"\r\n") - 2 > max_fields:
        raise HeadersTooLarge(f"the head has more than {max_fields} fields")
    if _FOLD.search(head):
        raise Refusal("a field of the head is folded over two lines")
    if _REPEATED_LENGTH.search(head.lower()):
        raise Refusal("the head states its length more than once")


def _read(role: type[h11.SERVER] | type[h11.CLIENT], head: bytes) -> object:
    reader = h11.Connection(role, max_incomplete_event_size=len(head))
    if role is h11.CLIENT and head.startswith(b"HTTP/1.1 1"):  # h11 wants a request before a 1xx
        reader.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    reader.receive_data(head)
    try:
        return reader.next_event()
    except h11.RemoteProtocolError as error:
        raise Refusal("the head is not well-formed HTTP/1.1") from error


def _framing(headers: Headers, *, http11: bool) -> tuple[bool, bool, int | None]:
    """Whether the connection may go on, whether the body is chunked, how long it is."""
    keep_alive, chunked, length = http11, False, None
    for name, value in headers.fields:
        if name == b"connection":
            if b"close" in (word.strip() for word in value.lower().split(b",")):
                keep_alive = False
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"content-length":
            length = int(value)
    if chunked and (length is not None or not http11):
        raise Refusal("the head says in two ways where its body ends")
    return keep_alive, chunked, length


def write_request(method: str, target: str, fields: list[Field]) -> bytes:
    """A request head. Raises ValueError for what would not stay one head."""
    verb, path = method.encode("latin-1"), target.encode("latin-1")
    if not _NAME.fullmatch(verb) or not path or _NOT_IN_A_TARGET.search(path):
        raise ValueError(f"{method!r} {target!r} is no request line")
    return b"%b %b HTTP/1.1\r\n%b" % (verb, path, _lines(fields))


def write_response(status: int, fields: list[Field]) -> bytes:
    """A response head. Raises ValueError for what would not stay one head."""
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()
    return line + _lines(fields)


def _lines(fields: list[Field]) -> bytes:
    lines = b"\r\n".join([b": ".join(field) for field in fields])
    names = [name for name, _ in fields]
    if (
        lines.translate(None, _IN_A_LINE) != b"\r\n" * (len(fields) - 1)
        or b"".join(names).translate(None, _IN_A_NAME)
        or b"" in names
    ):
        raise ValueError("a header has a character that no header may have")
    return lines + b"\r\n\r\n" if fields else b"\r\n"
