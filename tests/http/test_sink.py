"""How many writes an answer takes, and what is in each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.http import StreamingResponse
from helexa.http.outbox import DateHeader, Http1Sink, http_date

pytestmark = pytest.mark.anyio


class Parts:
    """Parts of a body; with ``foreseen`` it tells when the last one has been given."""

    def __init__(self, *parts: bytes, foreseen: bool) -> None:
        self._left = list(parts)
        self._foreseen = foreseen

    @property
    def complete(self) -> bool:
        return self._foreseen and not self._left

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


async def writes(
    answer: StreamingResponse, *, http11: bool = True, head: bool = False
) -> list[bytes]:
    """The body's bytes by write, without the head."""
    found: list[bytes] = []

    async def write(data: bytes) -> None:
        found.append(data)

    sink = Http1Sink(
        *(write, DateHeader(), "req_1"), head_only=head, http11=http11, may_keep=lambda: True
    )
    await answer.send(sink)
    assert sink.ended
    assert sink.sent_bytes == sum(map(len, found))
    found[0] = found[0].partition(b"\r\n\r\n")[2]
    return found


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), [b"1\r\na\r\n0\r\n\r\n"]),
        ((b"b",), [b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"]),
        ((b"b", b"", b"c"), [b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n0\r\n\r\n"]),
    ],
)
async def test_an_end_that_is_foreseen_goes_with_the_last_part(
    parts: tuple[bytes, ...], expected: list[bytes]
) -> None:
    answer = StreamingResponse(Parts(*parts, foreseen=True), first=b"a")
    assert await writes(answer) == expected
    unforeseen = StreamingResponse(Parts(*parts, foreseen=False), first=b"a")
    assert b"".join(await writes(unforeseen)) == b"".join(expected)


async def test_an_empty_last_part_ends_the_body_all_the_same() -> None:
    assert await writes(StreamingResponse(Parts(b"", foreseen=True))) == [b"", b"0\r\n\r\n"]


async def test_no_end_is_written_where_the_head_says_where_it_is() -> None:
    sized = StreamingResponse(Parts(b"b", foreseen=True), 200, {"content-length": "2"}, first=b"a")
    assert await writes(sized) == [b"a", b"b"]
    old = StreamingResponse(Parts(b"b", foreseen=True), first=b"a")
    assert await writes(old, http11=False) == [b"a", b"b"]
    bodiless = StreamingResponse(Parts(b"b", foreseen=True), first=b"a")
    assert await writes(bodiless, head=True) == [b""]


async def test_a_body_shorter_than_its_head_says_is_an_error() -> None:
    short = StreamingResponse(Parts(b"b", foreseen=True), 200, {"content-length": "9"})
    with pytest.raises(RuntimeError, match="8 bytes before"):
        await writes(short)


@given(st.integers(0, 2**35))
def test_dates_are_those_of_mail(second: int) -> None:
    assert http_date(second).decode() == formatdate(second, usegmt=True)


async def test_no_last_words_before_a_head_is_out() -> None:
    """Who is ended before that would send the end of a body as the beginning of an answer."""

    async def write(data: bytes) -> None:
        raise InterruptedError

    sink = Http1Sink(
        *(write, DateHeader(), "req_1"), head_only=False, http11=True, may_keep=lambda: True
    )
    sink.last_words = lambda error: b"data: error\n\n"
    with pytest.raises(InterruptedError):
        await sink.start(200, [], b"data: first\n\n")
    assert sink.started
    assert sink.last_words is None
