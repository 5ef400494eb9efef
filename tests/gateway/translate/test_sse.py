"""Reading events: every way of ending a line, and of cutting the bytes; and what it costs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helexa.gateway.translate.sse import PING, SseReader, encode
from helexa.protocol.json_text import to_json

STREAM = (
    ": hello\n\ndata: {}\n\nevent: x\nid: 1\nretry: 5\ndata:a\ndata:  č\ndata\ndata:\n\n"
    ":\n\ndata: 😀\u2028\x85\n\ndatax: no\nunknown\n\ndata: last\n\ndata: incomplete\n"
).encode()
DATA = ["{}", "a\n č\n\n", "😀\u2028\x85", "last"]


def read(body: bytes, cuts: list[int], limit: int = 1000) -> list[str]:
    reader = SseReader(limit)
    ends = sorted({*(min(cut, len(body)) for cut in cuts), len(body)})
    pieces = zip([0, *ends], ends, strict=False)
    return [data for start, end in pieces for data in reader.feed(body[start:end])]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_g132_sse_forms(line_end: bytes, size: int) -> None:
    body = STREAM.replace(b"\n", line_end)
    assert read(body, list(range(0, len(body), size))) == DATA
    assert read(b"\xef\xbb\xbf" + body, list(range(0, len(body), size))) == DATA


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
words = st.sampled_from(["", "data", "data:", "data: ", "da", ": x", "event: y", "ž", " "])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(words, st.text(max_size=4), line_ends)),
    st.lists(st.integers(0, 80), max_size=12),
)
def test_cutting_changes_nothing(parts: list[tuple[str, str, bytes]], cuts: list[int]) -> None:
    body = b"".join(word.encode() + text.encode() + end for word, text, end in parts)
    whole = read(body, [])
    assert read(body, cuts) == whole
    plain = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert read(plain, []) == whole


@pytest.mark.parametrize("size", [1, 100])
def test_a_mark_at_the_beginning_is_no_part_of_it(size: int) -> None:
    body = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"
    assert read(body, list(range(0, len(body), size))) == ["a"]


def test_a_half_character_is_replaced() -> None:
    assert read(b"data: \xc4\n\n", []) == ["\ufffd"]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_an_event_beyond_the_limit_ends_the_reading(size: int) -> None:
    fits = b"data: 3456\ndata: 4567\n\n: 34567890123456789\n\n"
    for extra in (
        b"data: 3456\ndata: 45678\n\n",
        b"data: 345678901234567",
        b": 2345678901234567890",
    ):
        reader = SseReader(20)
        body = fits + extra + b"\n\ndata: a\n\n"
        found = [
            data for at in range(0, len(body), size) for data in reader.feed(body[at : at + size])
        ]
        assert found == ["3456\n4567"]
        assert reader.overflowed


class Counting(bytearray):
    """A buffer that counts the bytes which are copied in and out of it."""

    copied = 0

    def __iadd__(self, more: object) -> Counting:
        assert isinstance(more, bytes)
        self.copied += len(more)
        return super().__iadd__(more)

    def __bytes__(self) -> bytes:
        self.copied += len(self)
        return bytes(memoryview(self))


@pytest.mark.parametrize(("size", "total"), [(1, 100_000), (1000, 2_000_000), (65_536, 10_000_000)])
@pytest.mark.parametrize("event", [100, 90_000], ids=["small events", "large events"])
def test_every_byte_is_held_and_read_at_most_once(size: int, total: int, event: int) -> None:
    """The pieces themselves are only split; what waits for its end is the buffer's."""
    one = b"data: " + b"x" * event + b"\n\n"
    body = one * (total // len(one))
    reader = SseReader()
    buffer = reader._line = Counting()
    found = 0
    for at in range(0, len(body), size):
        found += len(reader.feed(body[at : at + size]))
        assert len(buffer) <= len(one)
    assert found == total // len(one)
    assert buffer.copied <= 2 * len(body)


def test_frames() -> None:
    frame = encode("message_stop", {"type": "message_stop", "x": "ž\u2028\n"})
    name, data, *rest = frame.decode().split("\n")
    assert (name, rest) == ("event: message_stop", ["", ""])
    assert "ž" in data
    assert "\u2028" not in data
    assert json.loads(data.removeprefix("data: ")) == {"type": "message_stop", "x": "ž\u2028\n"}


@pytest.mark.parametrize(
    "delta",
    [
        {"type": "text_delta", "text": 'ž\u2028\n"%d'},
        {"type": "thinking_delta", "thinking": "\ud83d"},
        {"type": "input_json_delta", "partial_json": '{"a":'},
        {"type": "other_delta", "a": "b", "c": "d"},
    ],
    ids=lambda delta: delta["type"],
)
def test_a_delta_is_written_like_any_event(delta: dict[str, str]) -> None:
    data = {"type": "content_block_delta", "index": 12, "delta": delta}
    expected = b"event: content_block_delta\ndata: " + to_json(data) + b"\n\n"
    assert encode("content_block_delta", data) == expected


def test_g134_the_ping_is_a_frame() -> None:
    assert encode("ping", {"type": "ping"}) == PING
