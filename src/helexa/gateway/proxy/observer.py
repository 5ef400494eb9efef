"""What is learnt from an answer while its bytes pass: tokens used, when content came, errors.

Nothing is parsed as JSON: in its text a quote inside a string is always escaped, so a key between
bare quotes is a key. What can wait is done for many chunks at once, as there are tens of thousands
of them per second.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

TAIL_BYTES = 64 << 10
KEPT_BYTES = 32 << 10
BATCH_BYTES = 8 << 10
CHUNK_COST_BYTES = 100
"""What a waiting chunk holds beside its bytes."""
EVENT_BYTES = 64 << 10
"""Of a longer event, only what is needed to go on is kept until its end."""
OVERLAP_BYTES = 128
LARGEST_COUNT = 2**63 - 1
QUOTE, BACKSLASH = b'"\\'

_DIGITS = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*([0-9]+)")
_DECIMAL = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?)")
_ERROR = re.compile(
    rb'\s*\{\s*(?:"error"\s*:\s*(?!null\b)|"(?:type|object)"\s*:\s*"(?:error|response\.failed)")'
)


class Usage(NamedTuple):
    """Tokens of one answer, as its neuron counted them; ``cached`` are among ``prompt``."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


class Dialect:
    """Under which keys an API tells of content, in events, and of tokens."""

    def __init__(self, *content: bytes, prompt: bytes, completion: bytes) -> None:
        self.prompt = prompt
        self.completion = completion
        forms = (b'"%b":"', b'"%b": "')
        self.needles = tuple(form % key for key in content for form in forms)
        self.pattern = re.compile(rb'(?<!\\)"(?:%b)"[ \t\n]*:[ \t\n]*"(?!")' % b"|".join(content))


CHAT = Dialect(
    *(b"content", b"reasoning_content", b"reasoning", b"arguments"),
    prompt=b"prompt_tokens",
    completion=b"completion_tokens",
)
COMPLETIONS = Dialect(b"text", prompt=b"prompt_tokens", completion=b"completion_tokens")
RESPONSES = Dialect(b"delta", prompt=b"input_tokens", completion=b"output_tokens")


class Observer:
    """Sees every chunk of one answer.

    ``clock`` in seconds. Of an answer that is no event stream there are no deltas. What it has
    learnt may be asked at any time; that is cheap only at the end.
    """

    __slots__ = (
        *("_chunks", "_clock", "_dialect", "_events", "_first_byte_at", "_last_byte_at"),
        *("_tail", "_times", "_waiting"),
    )

    def __init__(self, dialect: Dialect, *, event_stream: bool, clock: Callable[[], float]) -> None:
        self._dialect = dialect
        self._events = Events(dialect) if event_stream else None
        self._clock = clock
        self._chunks: list[bytes] = []
        self._times: list[float] = []
        self._waiting = 0
        self._tail = bytearray()
        self._first_byte_at: float | None = None
        self._last_byte_at: float | None = None

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body, however they are cut."""
        self._chunks.append(chunk)
        self._times.append(self._clock())
        self._waiting += len(chunk) + CHUNK_COST_BYTES
        if self._waiting >= BATCH_BYTES:
            self._look()

    @property
    def tail(self) -> bytes:
        """The newest of the text, at most 64 KiB, beginning with a whole character."""
        self._look()
        return bytes(self._tail)

    @property
    def usage(self) -> Usage | None:
        """The last usage that was told; None if there was none."""
        self._look()
        prompt = last_count_for(self._tail, self._dialect.prompt)
        completion = last_count_for(self._tail, self._dialect.completion)
        if prompt is None and completion is None:
            return None
        cached = last_count_for(self._tail, b"cached_tokens")
        return Usage(prompt or 0, completion or 0, cached or 0)

    @property
    def deltas(self) -> int:
        """How many complete events carried content."""
        self._look()
        return self._events.deltas if self._events is not None else 0

    @property
    def first_delta_at(self) -> float | None:
        """When the first of them was complete."""
        self._look()
        return self._events.first_delta_at if self._events is not None else None

    @property
    def last_delta_at(self) -> float | None:
        """When the last of them was complete."""
        self._look()
        return self._events.last_delta_at if self._events is not None else None

    @property
    def error_seen(self) -> bool:
        """Whether an event was an error: the answer failed after its head was sent."""
        self._look()
        return self._events is not None and self._events.error_seen

    @property
    def first_byte_at(self) -> float | None:
        """When the body began."""
        self._look()
        return self._first_byte_at

    @property
    def last_byte_at(self) -> float | None:
        """When the newest bytes came."""
        self._look()
        return self._last_byte_at

    def _look(self) -> None:
        """Take in the chunks that wait."""
        if not self._chunks:
            return
        chunks, times = self._chunks, self._times
        self._chunks, self._times, self._waiting = [], [], 0
        if self._first_byte_at is None:
            self._first_byte_at = times[0]
        self._last_byte_at = times[-1]
        data = b"".join(chunks)
        self._keep(data)
        if self._events is not None:
            self._events.look(data, chunks, times)

    def _keep(self, data: bytes) -> None:
        tail = self._tail
        tail += data if len(data) <= KEPT_BYTES else data[-KEPT_BYTES - 4 :]
        if len(tail) > TAIL_BYTES or len(data) > KEPT_BYTES:
            del tail[:-KEPT_BYTES]
            while tail and tail[0] & 0xC0 == 0x80:  # inside a character of UTF-8
                del tail[0]


class Events:
    """The events of one stream: which are complete, and what they carry."""

    __slots__ = (
        *("_after_cr", "_begun", "_begun_with_content", "_dialect"),
        *("deltas", "error_seen", "first_delta_at", "last_delta_at"),
    )

    def __init__(self, dialect: Dialect) -> None:
        self.deltas = 0
        self.first_delta_at: float | None = None
        self.last_delta_at: float | None = None
        self.error_seen = False
        self._dialect = dialect
        self._begun = b""
        self._begun_with_content = False
        self._after_cr = False

    def look(self, data: bytes, chunks: Sequence[bytes], times: Sequence[float]) -> None:
        """More of the stream: ``data`` is the chunks, joined, and ``times`` when each came."""
        if self._after_cr or b"\r" in data:
            chunks = self._plain_lines(chunks)
            data = b"".join(chunks)
        before = len(self._begun)
        text = self._begun + data
        events = text.split(b"\n\n")
        self._begun = events.pop()
        dialect = self._dialect
        carrying = [at for at, event in enumerate(events) if has_content(event, dialect)]
        if events and self._begun_with_content:
            self._begun_with_content = False
            if carrying[:1] != [0]:
                carrying.insert(0, 0)
        if carrying:
            ends = list(accumulate(len(event) + 2 for event in events))
            came = list(accumulate(map(len, chunks)))
            first, last = (
                times[bisect_left(came, ends[at] - before)] for at in (carrying[0], carrying[-1])
            )
            self.deltas += len(carrying)
            self.first_delta_at = first if self.first_delta_at is None else self.first_delta_at
            self.last_delta_at = last
        if not self.error_seen and (b'"error"' in text or b'"response.failed"' in text):
            self.error_seen = any(map(is_error, events))
        if len(self._begun) > EVENT_BYTES:
            self._shorten()

    def _plain_lines(self, chunks: Sequence[bytes]) -> list[bytes]:
        """The chunks with LF for the other two ends of a line, also where a pair is cut."""
        plain = []
        for chunk in chunks:
            text = chunk[1:] if self._after_cr and chunk.startswith(b"\n") else chunk
            if chunk:
                self._after_cr = chunk.endswith(b"\r")
            plain.append(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        return plain

    def _shorten(self) -> None:
        """Forget most of a long event that has not ended, but not what it carries."""
        begun = self._begun
        self._begun_with_content |= has_content(begun, self._dialect)
        line = begun[begun.rfind(b"\n") + 1 :]
        if len(line) > 2 * OVERLAP_BYTES:  # what is joined here makes no key
            line = b"%b?%b" % (line[:OVERLAP_BYTES], line[-OVERLAP_BYTES:])
        self._begun = line


def has_content(event: bytes, dialect: Dialect) -> bool:
    """Whether the data of an event has one of the keys of content with a text that is not empty.

    Most have it as compact JSON, which is found without looking for its end.
    """
    for needle in dialect.needles:
        at = event.find(needle)
        if at > 0:
            after = at + len(needle)
            if (
                after < len(event)
                and event[after] != QUOTE
                and event[at - 1] != BACKSLASH
                and event.startswith(b"data:", event.rfind(b"\n", 0, at) + 1)
            ):
                return True
    return dialect.pattern.search(data_of(event)) is not None


def is_error(event: bytes) -> bool:
    """Whether the data of an event is an error and nothing else, or says so first of all."""
    return _ERROR.match(data_of(event)) is not None


def data_of(event: bytes) -> bytes:
    """The data lines of an event, joined."""
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def last_count_for(tail: bytes | bytearray, key: bytes) -> int | None:
    """The last whole number under this key; what follows a decimal point is cut off.

    Skipped is what is no number, negative, or more than 63 bits.
    """
    for found in _backwards(tail, key, _DIGITS):
        if len(found) <= 19 and int(found) <= LARGEST_COUNT:
            return int(found)
    return None


def last_number_for(tail: bytes | bytearray, key: bytes) -> float | None:
    """The last number under this key that is not negative."""
    for found in _backwards(tail, key, _DECIMAL):
        if math.isfinite(number := float(found)):
            return number
    return None


def _backwards(
    tail: bytes | bytearray, key: bytes, value: re.Pattern[bytes]
) -> Iterator[bytes | bytearray]:
    """The values of a key, from the last occurrence to the first."""
    quoted = b'"%b"' % key
    at = len(tail)
    while (at := tail.rfind(quoted, 0, at)) >= 0:
        found = value.match(tail, at + len(quoted))
        if found is not None and (at == 0 or tail[at - 1] != BACKSLASH):
            yield found[1]
