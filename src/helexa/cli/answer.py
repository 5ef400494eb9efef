"""One answer: events in, shown as they come, collected into a value."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol

from helexa.cli.terminal import is_terminal, printable, styled
from helexa.text.events import Finish, Reasoning, Text, ToolCall

if TYPE_CHECKING:
    from types import FrameType

    from helexa.text.events import Event, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; ``finish_reason`` and ``usage`` are None for an answer that was stopped.

    ``first_ms`` is the time from asking to the first event, None if there was none.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    first_ms: float | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it ended before its end."""
        return self.finish_reason is None

    def openai_calls(self) -> tuple[dict[str, Any], ...]:
        """The tool calls as they stand in a conversation."""
        return tuple(
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in self.tool_calls
        )

    def as_json(self) -> dict[str, Any]:
        """As plain values for one JSON document."""
        usage = asdict(self.usage) if self.usage is not None else {}
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "tool_calls": list(self.openai_calls()),
            "finish_reason": self.finish_reason,
            "usage": {name: _rounded(value) for name, value in usage.items()} or None,
            "first_token_ms": _rounded(self.first_ms),
        }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


class Show(Protocol):
    """Where an answer is seen while it comes."""

    def event(self, event: Event) -> None:
        """Show what one event adds."""

    def end(self) -> None:
        """The answer is over, whole or not."""


class Silent:
    """Shows nothing: for JSON, which comes at the end."""

    def event(self, event: Event) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


_STYLES: Mapping[type, Mapping[str, Any]] = {Reasoning: {"dim": True}, ToolCall: {"fg": "cyan"}}


@dataclass(slots=True)
class Written:
    """Text and tool calls to ``out``, reasoning dimmed to ``aside``, each part from a fresh line.

    ``exact`` leaves the text as it is, and ends a pipe without a newline of its own.
    """

    out: IO[str]
    aside: IO[str]
    exact: bool = False
    _last: dict[int, str] = field(default_factory=dict)
    _kind: type | None = None

    def event(self, event: Event) -> None:
        """Write what it adds, flushed."""
        if isinstance(event, Finish):
            return
        text = event.text
        if isinstance(event, ToolCall):
            text = f"→ {event.name}({event.arguments})\n"
        elif self._kind is not type(event) and not self.exact:
            text = text.lstrip("\n")  # models begin a part with empty lines
        if not text:
            return
        if self._kind not in (None, type(event)):
            self._fresh_line(self.aside if self._kind is Reasoning else self.out)
        self._kind = type(event)
        stream = self.aside if isinstance(event, Reasoning) else self.out
        self._write(stream, text, **_STYLES.get(self._kind, {}))

    def end(self) -> None:
        """Finish the last line."""
        if self._kind is Reasoning:
            self._fresh_line(self.aside)
        if not (self.exact and not is_terminal(self.out)):
            self._fresh_line(self.out)
        self._last.clear()
        self._kind = None

    def _write(self, stream: IO[str], text: str, **style: Any) -> None:
        if is_terminal(stream):
            text = printable(text)
        if text:
            self._last[id(stream)] = text[-1]
            stream.write(styled(text, stream, **style) if style else text)
            stream.flush()

    def _fresh_line(self, stream: IO[str]) -> None:
        if self._last.get(id(stream), "\n") != "\n":
            self._write(stream, "\n")


def take(events: Iterator[Event], show: Show, clock: Callable[[], float]) -> Answer:
    """Run an answer to its end, or until ^C: then its request is aborted and the rest is kept.

    What has come is never lost; an error of the request is raised after ``show.end()``.
    """
    start, first_ms = clock(), None
    seen: list[Event] = []
    with first_interrupt_only():
        try:
            with closing(events):  # type: ignore[type-var]  # generators and the library's own
                for event in events:
                    first_ms = (clock() - start) * 1000 if first_ms is None else first_ms
                    seen.append(event)
                    show.event(event)
        except KeyboardInterrupt:
            pass
        finally:
            show.end()
    return _collect(seen, first_ms)


def _collect(seen: list[Event], first_ms: float | None) -> Answer:
    finish = seen[-1] if seen and isinstance(seen[-1], Finish) else None
    return Answer(
        text="".join(e.text for e in seen if isinstance(e, Text)),
        reasoning="".join(e.text for e in seen if isinstance(e, Reasoning)),
        tool_calls=tuple(e for e in seen if isinstance(e, ToolCall)),
        finish_reason=finish.reason if finish else None,
        usage=finish.usage if finish else None,
        first_ms=first_ms,
    )


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Let the first ^C raise and absorb the second while things are put away; the third raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    presses = 0

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses != 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stats_line(answer: Answer) -> str:
    """``42 tokens · 310.2 tok/s · first token 24 ms · 96 of 120 prompt tokens cached``.

    Where tokens were guessed, ``drafts 12 of 20`` says how many of them rightly.
    """
    usage = answer.usage
    if usage is None:
        return "stopped"
    parts = [f"{usage.completion_tokens} tokens"]
    if usage.tokens_per_second > 0:
        parts.append(f"{usage.tokens_per_second:.1f} tok/s")
    if answer.first_ms is not None:
        parts.append(f"first token {answer.first_ms:.0f} ms")
    parts.append(f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens cached")
    if usage.drafts is not None:
        parts.append(f"drafts {usage.drafts.told}")
    if answer.finish_reason == "length":
        parts.append("cut off at the token limit")
    return " · ".join(parts)
