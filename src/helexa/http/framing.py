"""Where a body ends: readers that take bytes and give bytes, and know no socket.

Stricter than the grammar on purpose: a chunk's size is followed by CR LF or an extension, and by
nothing else.
"""

from __future__ import annotations

import re
from typing import Protocol

LAST_CHUNK = b"0\r\n\r\n"
_EXTENSION = rb"(?:;[\t\x20-\x7e\x80-\xff]{0,256})?"
_FIRST = re.compile(rb"([0-9a-fA-F]{1,15})" + _EXTENSION + rb"\r\n")
_NEXT = re.compile(rb"\r\n([0-9a-fA-F]{1,15})" + _EXTENSION + rb"\r\n")
_PARTIAL = re.compile(rb"(?:[0-9a-fA-F]{1,15}" + _EXTENSION + rb"\r?)?")
_FIELD = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+:[\t\x20-\x7e\x80-\xff]*\r\n"
_TRAILERS = re.compile(rb"(?:" + _FIELD + rb")*\r\n")
_MAX_TRAILER_BYTES = 8192


class FramingError(ValueError):
    """The bytes are not a body of the kind that the head announced."""


class Body(Protocol):
    """Takes its part from the front of a buffer; ``done`` once the body is complete."""

    done: bool

    def feed(self, buffer: bytearray) -> bytes:
        """Remove what belongs to the body and return its content; raises FramingError."""
        ...

    def end(self) -> bool:
        """The connection ended: whether the body is complete with that."""
        ...


class LengthBody:
    """A body of so many bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, buffer: bytearray) -> bytes:
        data = _take(buffer, self._left)
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def end(self) -> bool:
        return self.done


class EndlessBody:
    """A body that lasts as long as the connection."""

    def __init__(self) -> None:
        self.done = False

    def feed(self, buffer: bytearray) -> bytes:
        data = bytes(buffer)
        buffer.clear()
        return data

    def end(self) -> bool:
        self.done = True
        return True


class ChunkedBody:
    """A body in chunks; extensions and trailers are read and dropped."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0
        self._size_line = _FIRST
        self._in_trailers = False

    def feed(self, buffer: bytearray) -> bytes:
        pieces: list[bytearray] = []
        at = 0
        if self._left:
            pieces.append(buffer[: self._left])
            at = len(pieces[0])
            self._left -= at
        if not self._left and not self._in_trailers:
            at = self._read_chunks(buffer, at, pieces)
        if self._in_trailers and not self.done and at < len(buffer):
            at = self._read_trailers(buffer, at)
        del buffer[:at]
        return b"".join(pieces)

    def _read_chunks(self, buffer: bytearray, at: int, pieces: list[bytearray]) -> int:
        """Append the content of chunks to ``pieces``; where they end, or a size is incomplete."""
        size = len(buffer)
        while at < size:
            line = self._size_line.match(buffer, at)
            if line is None:
                self._require_partial(buffer, at)
                return at
            self._size_line = _NEXT
            start, length = line.end(), int(line[1], 16)
            if length == 0:
                self._in_trailers = True
                return start
            at = start + length
            pieces.append(buffer[start:at])
        self._left = at - size
        return size

    def _require_partial(self, buffer: bytearray, at: int) -> None:
        """Raise FramingError unless more bytes could make a size of this."""
        rest = bytes(buffer[at : at + 512])
        if self._size_line is _NEXT:
            if rest == b"\r\n":  # as it is behind most chunks
                return
            rest = rest.removeprefix(b"\r\n") if len(rest) > 1 else rest.removeprefix(b"\r")
        if not _PARTIAL.fullmatch(rest):
            raise FramingError("a chunk does not begin with its size, or not end where it said")

    def _read_trailers(self, buffer: bytearray, at: int) -> int:
        lines = _TRAILERS.match(buffer, at, at + _MAX_TRAILER_BYTES)
        if lines is not None:
            self.done = True
            return lines.end()
        rest = buffer[at:]
        if len(rest) >= _MAX_TRAILER_BYTES or b"\r\n\r\n" in rest or re.search(rb"(?<!\r)\n", rest):
            raise FramingError("the trailers of the body are malformed or too large")
        return at

    def end(self) -> bool:
        return self.done


def _take(buffer: bytearray, most: int) -> bytes:
    if len(buffer) <= most:
        data = bytes(buffer)
        buffer.clear()
        return data
    with memoryview(buffer) as view, view[:most] as part:
        data = bytes(part)
    del buffer[:most]
    return data


def chunk(data: bytes) -> bytes:
    """One chunk; ``data`` must not be empty, that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
