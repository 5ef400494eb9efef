"""What the surfaces have in common: events go in one by one, frames come out, and a whole answer.

One machine serves both modes: a stream sends its frames, a plain answer its ``whole``, and both
are made by the same steps, so that they cannot tell different stories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from helexa.protocol.envelope import wire_error
from helexa.protocol.sse import Frame
from helexa.refusals import UnfinishedAnswer
from helexa.text.events import Event, Finish, FinishReason, Reasoning, Text, ToolCall


@dataclass(frozen=True, slots=True)
class Head:
    """What every piece of an answer repeats; ``created`` in seconds since 1970."""

    id: str
    model: str
    created: int


class Projection(ABC):
    """One answer on one surface.

    ``open`` once the request runs, ``push`` for each event, then ``end``; ``fail`` if it breaks.
    A stream ends exactly once: after that, nothing comes out any more.
    """

    def __init__(self) -> None:
        self._opened = False
        self._ended = False
        self._calls = 0
        self._finish: Finish | None = None

    def open(self) -> list[Frame]:
        """What is sent as soon as the head is; nothing the second time."""
        if self._opened:
            return []
        self._opened = True
        return self._opening()

    def push(self, event: Event) -> list[Frame]:
        """The frames that an event causes."""
        if self._ended:
            return []
        frames = self.open()
        match event:
            case Reasoning(text) if text:
                frames += self._reasoning(text)
            case Text(text) if text:
                frames += self._text(event)
            case ToolCall():
                frames += self._call(event, self._calls)
                self._calls += 1
            case Finish():
                self._ended = True
                self._finish = event
                frames += self._finished(event)
        return frames

    def fail(self, error: BaseException) -> list[Frame]:
        """The last frame of a stream whose head is gone; nothing follows it."""
        if self._ended:
            return []
        self._ended = True
        return self._failed(error)

    def end(self) -> list[Frame]:
        """The events are over: a failure if they did not finish."""
        return self.fail(UnfinishedAnswer())

    def whole(self) -> dict[str, Any]:
        """The answer in one piece. Raises UnfinishedAnswer if it never finished."""
        if self._finish is None:
            raise UnfinishedAnswer
        return self._whole(self._finish)

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._finish is not None

    def _reason(self, finish: Finish) -> FinishReason:
        """A call turns ``stop`` into ``tool_calls``; nothing else is one."""
        if finish.reason == "length":
            return "length"
        return "tool_calls" if self._calls else "stop"

    def _ending(self, finish: Finish) -> dict[str, str]:
        """Why it ended, as fields of its choice: a stop string is told as vLLM does it."""
        reason = self._reason(finish)
        if reason != "stop" or finish.stop is None:
            return {"finish_reason": reason}
        return {"finish_reason": reason, "stop_reason": finish.stop}

    def _failed(self, error: BaseException) -> list[Frame]:
        return [wire_error(error).frame()]

    @abstractmethod
    def _opening(self) -> list[Frame]: ...
    @abstractmethod
    def _reasoning(self, text: str) -> list[Frame]: ...
    @abstractmethod
    def _text(self, event: Text) -> list[Frame]: ...
    @abstractmethod
    def _call(self, call: ToolCall, index: int) -> list[Frame]: ...
    @abstractmethod
    def _finished(self, finish: Finish) -> list[Frame]: ...
    @abstractmethod
    def _whole(self, finish: Finish) -> dict[str, Any]: ...


def stream(projection: Projection, events: Iterable[Event]) -> Iterator[Frame]:
    """All frames of an answer whose events are at hand, also if they are cut short."""
    yield from projection.open()
    for event in events:
        yield from projection.push(event)
    yield from projection.end()


def collect(projection: Projection, events: Iterable[Event]) -> dict[str, Any]:
    """The whole answer whose events are at hand. Raises UnfinishedAnswer if they are cut short."""
    for _ in stream(projection, events):
        pass
    return projection.whole()
