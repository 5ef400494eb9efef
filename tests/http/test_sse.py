"""Event streams: frames, comments in silence, failures after the head, the buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from helexa.errors import EngineLost
from helexa.http import EventStream, Request, Response, event, serving
from tests.http.wire import GET, Answer, ask, connected

pytestmark = pytest.mark.anyio


async def streamed(source: AsyncIterator[bytes], **options: float) -> Answer:
    async def handler(_: Request) -> Response:
        return EventStream(source, keep_alive_s=options.get("keep_alive_s", 1.0))

    async with serving(handler) as server:
        return await ask(server, GET)


@pytest.mark.parametrize(
    ("data", "name", "frame"),
    [
        ({"a": "é"}, None, 'data: {"a":"é"}\n\n'),
        ("[DONE]", None, "data: [DONE]\n\n"),
        ("one\ntwo\r\nthree\r", None, "data: one\ndata: two\ndata: three\ndata: \n\n"),
        ({}, "response.created", "event: response.created\ndata: {}\n\n"),
    ],
)
def test_frames(data: object, name: str | None, frame: str) -> None:
    assert event(data, name) == frame.encode()


def test_a_name_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        event({}, "a\nb")


async def test_head_and_frames() -> None:
    async def source() -> AsyncIterator[bytes]:
        for n in range(3):
            yield event({"n": n})

    answer = await streamed(source())
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("cache-control") == "no-cache"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.body == b'data: {"n":0}\n\ndata: {"n":1}\n\ndata: {"n":2}\n\n'


async def test_an_empty_stream() -> None:
    async def source() -> AsyncIterator[bytes]:
        return
        yield b""

    assert (await streamed(source())).body == b""


async def test_the_first_frame_does_not_wait_for_the_second() -> None:
    release = anyio.Event()

    async def handler(_: Request) -> Response:
        async def source() -> AsyncIterator[bytes]:
            yield event("one")
            await release.wait()
            yield event("two")

        return EventStream(source(), keep_alive_s=60)

    async with serving(handler) as server, connected(server) as peer:
        await peer.send(GET)
        await peer.until(b"data: one\n\n")
        release.set()
        await peer.until(b"data: two\n\n")


async def test_silence_is_filled_with_comments() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield event("one")
        await anyio.sleep(0.25)
        yield event("two")

    body = (await streamed(source(), keep_alive_s=0.1)).body
    silence = body.removeprefix(b"data: one\n\n").removesuffix(b"data: two\n\n")
    assert silence.startswith(b":\n\n")
    assert silence.replace(b":\n\n", b"") == b""


async def test_a_failure_is_the_last_frame(caplog: pytest.LogCaptureFixture) -> None:
    async def ours() -> AsyncIterator[bytes]:
        yield event("one")
        raise EngineLost("the engine died")

    async def bug() -> AsyncIterator[bytes]:
        yield event("one")
        raise ZeroDivisionError

    expected = '{{"error":{{"message":"{}","type":"api_error","code":{},"param":null}}}}'
    told = event(expected.format("the engine died", '"model_recovering"'))
    assert (await streamed(ours())).body == event("one") + told
    assert not caplog.records
    told = event(expected.format("internal error", "null"))
    assert (await streamed(bug())).body == event("one") + told
    assert "ZeroDivisionError" in caplog.text


async def test_a_source_runs_ahead_only_so_far() -> None:
    made = 0

    async def handler(_: Request) -> Response:
        async def source() -> AsyncIterator[bytes]:
            nonlocal made
            while True:
                made += 1
                yield b"x" * 1000
                await anyio.lowlevel.checkpoint()

        return EventStream(source(), max_buffer_bytes=50_000)

    async with serving(handler, drain_s=0) as server, connected(server) as peer:
        await peer.send(GET)
        before = -1
        with anyio.fail_after(10):
            while made != before:
                before = made
                await anyio.sleep(0.1)
        assert made < 20_000  # kernel buffers, and 50 frames here


async def test_n027_an_unread_stream_keeps_its_frames() -> None:
    async def handler(_: Request) -> Response:
        async def source() -> AsyncIterator[bytes]:
            for n in range(5000):
                yield event({"n": n, "filler": "x" * 1000})

        return EventStream(source())

    async with serving(handler) as server, connected(server) as peer:
        await peer.send(GET)
        await anyio.sleep(0.2)
        body = (await peer.answer()).body
        assert [f'"n":{n},'.encode() in body for n in (0, 2500, 4999)] == [True] * 3
        assert body.count(b"data: ") == 5000
