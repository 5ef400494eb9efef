"""Server-sent events: a stream with its own buffer, kept alive while it is silent."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable
from typing import Any

import anyio

from helexa.errors import HelexaError
from helexa.http.ending import ends_quietly
from helexa.http.headers import HeaderInput, fields_of
from helexa.http.response import (
    LastWords,
    Sink,
    StreamingResponse,
    as_helexa_error,
    close,
    dump_json,
    envelope,
)

COMMENT = b":\n\n"
_FIELDS = fields_of(
    {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
)


def event(data: Any, name: str | None = None) -> bytes:
    """One frame: ``data`` as JSON (text is taken as it is), after the event's name if it has one.

    Text may have several lines. Raises ValueError for a name with a line break in it.
    """
    lines = data.encode() if isinstance(data, str) else dump_json(data)
    frame = b"".join(b"data: %b\n" % line for line in _lines(lines))
    if name is None:
        return frame + b"\n"
    if "\n" in name or "\r" in name:
        raise ValueError("the name of an event is one line")
    return b"event: %b\n%b\n" % (name.encode(), frame)


def _lines(text: bytes) -> list[bytes]:
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return text.split(b"\n")


def error_event(error: HelexaError) -> bytes:
    """The frame that ends a stream which failed after its head."""
    return event(envelope(error))


class EventStream(StreamingResponse):
    """A stream of frames (`event` makes them), with a comment after each second of silence.

    The source runs in a task of its own and fills a buffer of at most ``max_buffer_bytes``, so
    what waits for a slow reader waits here; several waiting frames are sent at once. If the source
    fails, ``last_words`` makes the final frame of what went wrong, and the body ends properly.
    """

    def __init__(
        self,
        events: AsyncIterable[bytes],
        headers: HeaderInput = (),
        *,
        last_words: LastWords = error_event,
        keep_alive_s: float = 1.0,
        max_buffer_bytes: int = 1 << 20,
    ) -> None:
        super().__init__(events, 200, [*_FIELDS, *fields_of(headers)])
        self._last_words = last_words
        self._keep_alive_s = keep_alive_s
        self._buffer = _Buffer(max_buffer_bytes)

    async def send(self, sink: Sink) -> None:
        if sink.head_only:
            await super().send(sink)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ends_quietly, self._fill)
            sink.last_words = self._last_words
            await sink.start(self.status, self.fields)
            while not self._buffer.finished:
                with anyio.move_on_after(self._keep_alive_s) as silence:
                    await self._buffer.wait()
                if frames := self._buffer.take():
                    await sink.write(frames)
                elif silence.cancelled_caught:
                    await sink.write(COMMENT)
        sink.last_words = None
        failure = self._buffer.failure
        if failure is not None:
            await sink.write(self._last_words(as_helexa_error(failure)))
        await sink.end()
        if failure is not None and not isinstance(failure, HelexaError):
            raise failure

    async def _fill(self) -> None:
        buffer = self._buffer
        try:
            async for frame in self.parts:
                buffer.put(frame)
                if buffer.full:
                    await buffer.wait_for_room()
        except Exception as error:  # told to the client, and raised after that
            buffer.failure = error
        finally:
            buffer.close()
            await close(self.parts)


class _Buffer:
    """Frames between one writer and one reader."""

    def __init__(self, max_bytes: int) -> None:
        self.failure: Exception | None = None
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = anyio.Event()
        self._room = anyio.Event()

    @property
    def full(self) -> bool:
        return self._bytes >= self._max_bytes

    @property
    def finished(self) -> bool:
        return self._closed and not self._frames

    def put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def wait(self) -> None:
        """Return when there is something to take, or nothing will come."""
        if not self._frames and not self._closed:
            self._changed = anyio.Event()
            await self._changed.wait()

    async def wait_for_room(self) -> None:
        self._room = anyio.Event()
        await self._room.wait()

    def take(self) -> bytes:
        data = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        self._room.set()
        return data
