"""Bytes of a chat stream in, bytes of a message stream out.

    stream = MessagesStream(translated.thinking)
    async for data in upstream:                 # as it comes, cut anywhere
        if frames := stream.feed(data):
            await sink.write(frames)
        if stream.over:
            break                               # nothing more will come: let the upstream go
    else:
        await sink.write(stream.ended())        # the upstream's body is complete
    await sink.end()

If reading fails or stalls, `broken` gives the last frame instead of `ended`. Both give nothing once
the stream is ``over``, so they may be called in any case. Send `sse.PING` in silences: frames are
whole, so it fits between any two results. Neither I/O nor a clock is in here.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from helexa.gateway.translate.sse import MAX_EVENT_BYTES, SseReader, encode
from helexa.gateway.translate.stream import Event, StreamTranslator
from helexa.http.faults import UpstreamMalformed

DONE: Final = "[DONE]"
ENDED_EARLY: Final = "upstream stream ended unexpectedly"


class MessagesStream:
    """One streamed answer; ``thinking``: the request asked to see reasoning.

    ``over``: the last frame has been given. ``failed``: it was an error.
    """

    __slots__ = ("_reader", "_translator", "failed")

    def __init__(self, thinking: bool, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._translator = StreamTranslator(thinking)
        self._reader = SseReader(max_event_bytes)
        self.failed = False

    @property
    def over(self) -> bool:
        """Whether the last frame has been given."""
        return self._translator.over

    def feed(self, data: bytes) -> bytes:
        """The frames for what has come; never raises, what cannot be read ends the stream."""
        if self.over:
            return b""
        frames: list[bytes] = []
        for text in self._reader.feed(data):
            frames += self._frames(self._on_data(text))
        if self._reader.overflowed:
            frames += self._frames(self._translator.fail(UpstreamMalformed.text))
        return b"".join(frames)

    def ended(self) -> bytes:
        """The last frames, now that the upstream's body has properly ended."""
        if self._translator.started and self._translator.finished:
            return b"".join(self._frames(self._translator.finish()))
        return self.broken()

    def broken(self, message: str = ENDED_EARLY) -> bytes:
        """The last frame, now that nothing more can be had from the upstream."""
        return b"".join(self._frames(self._translator.fail(message)))

    def _on_data(self, text: str) -> list[Event]:
        if text == DONE:
            started = self._translator.started
            return self._translator.finish() if started else self._translator.fail(ENDED_EARLY)
        try:
            chunk = _DECODER.decode(text)
        except (ValueError, RecursionError):
            return []
        if not isinstance(chunk, dict):
            return []
        try:
            return self._translator.on_chunk(chunk)
        except UpstreamMalformed as error:
            return self._translator.fail(error.wire_message)

    def _frames(self, events: list[Event]) -> list[bytes]:
        if events and events[-1][0] == "error":
            self.failed = True
        return [encode(name, data) for name, data in events]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_DECODER: Final[Any] = json.JSONDecoder(parse_constant=_refuse_constant)
