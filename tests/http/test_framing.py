"""Bodies of every kind, fed whole, byte by byte, and with what comes after them."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.http.framing import Body, ChunkedBody, EndlessBody, FramingError, LengthBody, chunk

PARTS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def feed(body: Body, data: bytes, sizes: list[int]) -> tuple[bytes, bytes]:
    """The content, and what was left over, of data that arrives in pieces of these sizes."""
    buffer, content, at = bytearray(), b"", 0
    while at < len(data) and not body.done:
        size = sizes.pop(0) if sizes else len(data)
        buffer += data[at : at + size]
        at += size
        content += body.feed(buffer)
    return content, bytes(buffer) + data[at:]


@given(PARTS, st.lists(st.integers(1, 9), max_size=60), st.binary(max_size=20))
def test_chunks_arrive_in_any_pieces(parts: list[bytes], sizes: list[int], rest: bytes) -> None:
    wire = b"".join(map(chunk, parts)) + b"0\r\nx-trailer: 1\r\n\r\n"
    body = ChunkedBody()
    assert feed(body, wire + rest, sizes) == (b"".join(parts), rest)
    assert body.done
    assert body.end()


@given(PARTS)
def test_chunks_byte_by_byte(parts: list[bytes]) -> None:
    wire = b"".join(map(chunk, parts)) + b"0\r\n\r\n"
    body = ChunkedBody()
    assert feed(body, wire, [1] * len(wire))[0] == b"".join(parts)
    assert body.done


@given(st.binary(max_size=50), st.binary(max_size=20), st.lists(st.integers(1, 9), max_size=60))
def test_a_length_takes_so_many_bytes(content: bytes, rest: bytes, sizes: list[int]) -> None:
    body = LengthBody(len(content))
    assert feed(body, content + rest, sizes) == (content, rest)
    assert body.done


def test_an_endless_body_ends_with_its_connection() -> None:
    body = EndlessBody()
    assert feed(body, b"abc", [1, 1, 1])[0] == b"abc"
    assert not body.done
    assert body.end()
    assert body.done


@pytest.mark.parametrize(
    "wire",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloX0\r\n\r\n",
        b"5\r\nhello\rX",
        b"5\rX",
        b"-5\r\nhello",
        b"+5\r\nhello",
        b"0x5\r\nhello",
        b"5 \r\nhello",
        b" 5\r\nhello",
        b"5;a\x00b\r\nhello",
        b"5;a\nb\r\nhello",
        b"5;" + b"a" * 300,
        b"\r\n5\r\nhello",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"zz",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nx: 1\n\n",
        b"0\r\n\n",
        b"0\r\n" + b"x: " + b"y" * 9000,
    ],
)
def test_what_is_no_chunk_is_refused(wire: bytes) -> None:
    with pytest.raises(FramingError):
        feed(ChunkedBody(), wire, [])
    with pytest.raises(FramingError):
        feed(ChunkedBody(), wire, [1] * len(wire))


@given(st.binary(max_size=60) | st.text("0123456789abcdef;x=\r\n", max_size=60).map(str.encode))
def test_it_accepts_nothing_that_h11_refuses(wire: bytes) -> None:
    """Ours is the stricter one: what it takes for a body, h11 reads as the same body."""
    body = ChunkedBody()
    try:
        content, rest = feed(body, wire, [])
    except FramingError:
        return
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + wire)
    oracle.next_event()
    theirs = b""
    while isinstance(event := oracle.next_event(), h11.Data):
        theirs += event.data
    assert theirs == content
    assert isinstance(event, h11.EndOfMessage) == body.done
    if body.done:
        assert oracle.trailing_data[0] == rest
