"""How an answer becomes bytes on an HTTP/1.1 connection: head, framing, end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from helexa.http.framing import LAST_CHUNK, chunk
from helexa.http.headers import Field
from helexa.http.heads import write_response
from helexa.http.response import LastWords

Write = Callable[[bytes], Awaitable[None]]
_DAYS = b"Mon Tue Wed Thu Fri Sat Sun".split()
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_OURS = frozenset({b"connection", b"transfer-encoding", b"keep-alive", b"x-request-id"})


class DateHeader:
    """The ``date`` of an answer, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._value = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._value = http_date(second)
        return self._value


def http_date(second: int) -> bytes:
    """A time since the epoch as headers have it, in whatever language the host speaks."""
    at = time.gmtime(second)
    told = (_DAYS[at.tm_wday], at.tm_mday, _MONTHS[at.tm_mon - 1], at.tm_year, *at[3:6])
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % told


class Http1Sink:
    """Writes one answer.

    A body of unknown length goes in chunks, or to an HTTP/1.0 client until the connection closes.
    ``may_keep`` is asked when the head is written: whether this connection can take another
    request. ``keep`` is what was decided.
    """

    def __init__(
        self,
        write: Write,
        date: DateHeader,
        request_id: str,
        *,
        head_only: bool,
        http11: bool,
        may_keep: Callable[[], bool],
    ) -> None:
        self.head_only = head_only
        self.last_words: LastWords | None = None
        self.words_end = True
        self.status: int | None = None
        self.ended = False
        self.keep = False
        self.sent_bytes = 0
        self.until_close = False
        self._write = write
        self._date = date
        self._request_id = request_id.encode("latin-1")
        self._http11 = http11
        self._may_keep = may_keep
        self._bodiless = head_only
        self._left: int | None = None
        self._terminated = False

    @property
    def started(self) -> bool:
        """Whether a head has been written: no other one can follow."""
        return self.status is not None

    async def whole(self, status: int, fields: list[Field], body: bytes) -> None:
        """Head and body in one write."""
        self._bodiless = self.head_only or status in (204, 304)
        length = None if self._bodiless and _has(fields, b"content-length") else len(body)
        head = self._head(status, fields, None if status == 204 else length)
        data = head if self._bodiless else head + body
        self.status = status
        await self._write(data)
        self.sent_bytes += len(data)
        self.ended = True

    async def start(
        self, status: int, fields: list[Field], first: bytes = b"", *, last: bool = False
    ) -> None:
        """The head, and the first bytes of the body if there are some already."""
        self._bodiless = self.head_only or status in (204, 304)
        self._left = _length(fields)
        head = self._head(status, fields, None, streamed=True)
        self.status = status
        data = head + self._framed(first, last)
        # Where the request is ended before its head goes out, there is nothing to end with words.
        words, self.last_words = self.last_words, None
        await self._write(data)
        self.last_words = words
        self.sent_bytes += len(data)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """More of the body."""
        data = self._framed(data, last)
        if data:
            await self._write(data)
            self.sent_bytes += len(data)

    async def end(self) -> None:
        """Raises RuntimeError if less was written than the head promised."""
        if self._left and not self._bodiless:
            raise RuntimeError(f"the body ended {self._left} bytes before its content-length")
        end = self._framed(b"", last=True)
        if end:
            await self._write(end)
            self.sent_bytes += len(end)
        self.ended = True

    def _framed(self, data: bytes, last: bool) -> bytes:
        if self._bodiless or self._terminated:
            return b""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise RuntimeError("the body is longer than its content-length")
            return data
        if self.until_close:
            return data
        framed = chunk(data) if data else b""
        if last:
            self._terminated = True
            framed += LAST_CHUNK
        return framed

    def _head(
        self, status: int, fields: list[Field], length: int | None, *, streamed: bool = False
    ) -> bytes:
        self.keep = self._may_keep()
        kept: list[Field] = []
        dated = False
        for field in fields:
            name, value = field
            if name in _OURS:
                if name == b"connection" and b"close" in value.lower():
                    self.keep = False
                continue
            if name == b"content-length" and length is not None:
                continue
            dated = dated or name == b"date"
            kept.append(field)
        if length is not None:
            kept.append((b"content-length", b"%d" % length))
        elif streamed and self._left is None and status not in (204, 304):
            if self._http11:
                kept.append((b"transfer-encoding", b"chunked"))
            else:
                self.until_close = True
        kept.append((b"x-request-id", self._request_id))
        if not dated:
            kept.append((b"date", self._date()))
        if not self.keep or self.until_close:
            self.keep = False
            kept.append((b"connection", b"close"))
        return write_response(status, kept)


def _has(fields: list[Field], name: bytes) -> bool:
    return any(key == name for key, _ in fields)


def _length(fields: list[Field]) -> int | None:
    for name, value in fields:
        if name == b"content-length":
            return int(value)
    return None
