"""Server-sent events as bytes: read as they come, in any pieces, and written.

Source: the HTML standard, "9.2 Server-sent events". Of the fields only `data` is of interest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from helexa.protocol.json_text import to_json

MAX_EVENT_BYTES: Final = 4 << 20
PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
"""For a client that has heard nothing for a while."""

_BOM: Final = b"\xef\xbb\xbf"


def encode(name: str, data: Mapping[str, Any]) -> bytes:
    """The frame of one event, whose data has its name as `type`."""
    if name == "content_block_delta" and len(data["delta"]) == 2:
        return _delta_frame(data["index"], data["delta"])
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data))


def _delta_frame(index: int, delta: Mapping[str, str]) -> bytes:
    """The same for one of the many, of which only the text needs an encoder."""
    _, key = delta
    kind, text = delta["type"].encode(), to_json(delta[key])
    return _DELTA % (index, kind, key.encode(), text)


_DELTA: Final = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)


class SseReader:
    """The data of events in a stream of bytes that is cut anywhere.

    Every byte is looked at a fixed number of times, however it is cut. What is held is an event
    that is not complete, of at most ``max_event_bytes``; at a larger one reading ends, and
    ``overflowed`` says so.
    """

    __slots__ = ("_after_cr", "_data", "_first", "_held", "_line", "_max", "overflowed")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.overflowed = False
        self._max = max_event_bytes
        self._line = bytearray()  # one that is not complete
        self._data: list[bytes] = []  # of an event that is not complete
        self._held = 0  # bytes of the lines in _data
        self._after_cr = False
        self._first = True  # no line has been read yet

    def feed(self, chunk: bytes) -> list[str]:
        """The data of every event that is complete now."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the other half of a line end
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        found: list[str] = []
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            self._on_line(line, found)
        if not self._is_too_much(len(self._line) + len(rest)):
            self._line += rest
        return found

    def _on_line(self, line: bytes, found: list[str]) -> None:
        if self._is_too_much(len(line)):
            return
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                found.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data.clear()
                self._held = 0
        elif line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            self._held += len(line)
        elif line == b"data":
            self._data.append(b"")
            self._held += len(line)

    def _is_too_much(self, more: int) -> bool:
        """Whether reading is over because of the size of an event."""
        if self._held + more > self._max:
            self.overflowed = True
        return self.overflowed
