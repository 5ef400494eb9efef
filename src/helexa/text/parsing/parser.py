"""A model's output, token by token, as events.

One parser serves streams and whole answers: an answer is the sum of the events.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Literal

from helexa.text.detokenizer import Detokenizer
from helexa.text.events import Event, FinishReason, Reasoning, Text, TokenLogprob, ToolCall
from helexa.text.parsing.bodies import Tools, parse_call
from helexa.text.parsing.logprobs import HeldLogprobs
from helexa.text.parsing.markers import TOOL_PAIRS, Markers
from helexa.text.stop import Scanner, StopMatcher
from helexa.text.tokenizer import Tokenizer

_Mark = Literal["think", "answer", "call", "end_call"]


class OutputParser:
    """Reads the output of one generation.

    Tokens pass through the decoder, then through the search for literal tool markers (only where
    tools were given and the vocabulary has no tokens for them), then as visible text through the
    search for stop strings. ``parse=False`` leaves reasoning and calls in the text. ``prompt_ids``
    decide whether the output begins inside reasoning. Stop strings count from ``min_tokens`` on.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        markers: Markers,
        *,
        tools: Tools | None = None,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        prompt_ids: Sequence[int] = (),
        parse: bool = True,
    ) -> None:
        self.token_count = 0
        self.reasoning_tokens = 0
        self.tool_calls_emitted = 0
        self._tools = tools
        self._min_tokens = min_tokens
        self._decoder = Detokenizer(tokenizer)
        self._stop = StopMatcher(stop)
        self._marks = _token_marks(markers) if parse else {}
        literal = parse and bool(tools) and markers.tool is None
        self._scanner = Scanner(TOOL_PAIRS[0]) if literal else None
        self._tool_texts = markers.tool.texts if markers.tool else TOOL_PAIRS[0]
        self._events: list[Event] = []
        self._logprobs = HeldLogprobs()
        self._call: list[str] | None = None  # texts since the opening marker, that one included
        self._finished = False
        self._reasoning, self._skip_space = _start(tokenizer, self._marks, prompt_ids)

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text; further tokens are ignored."""
        return self._stop.stopped

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stop.found

    def finish_reason(self, reason: Literal["stop", "length"]) -> FinishReason:
        """What the engine's reason is called, given what was read."""
        if self.stopped:
            reason = "stop"
        return "tool_calls" if reason == "stop" and self.tool_calls_emitted else reason

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> list[Event]:
        """Read the next token, give the events it settles. End tokens are not pushed."""
        if self.stopped or self._finished:
            return []
        self.token_count += 1
        mark, marker = self._marks.get(token_id, (None, ""))
        in_call = self._call is not None
        if mark is None or (in_call and mark in ("think", "answer")):
            self._content(token_id, logprob)
        else:
            self._settle()
            is_text = marker and not self._reasoning
            self._logprobs.note(logprob if is_text else None, len(marker))
            self._mark(mark, marker)
        return self._taken()

    def finish(self) -> list[Event]:
        """Give what was held back: call it once, when the last token has been pushed."""
        if not self._finished:
            self._finished = True
            self._settle()
            self._give_up_call()
            self._logprobs.release_all()
            self._show(self._stop.flush())
        return self._taken()

    # -- text on its way ------------------------------------------------------------------------

    def _content(self, token_id: int, logprob: TokenLogprob | None) -> None:
        text = self._decoder.push_one(token_id)
        self.reasoning_tokens += self._reasoning and self._call is None
        self._logprobs.note(None if self._reasoning else logprob, len(text))
        self._decoded(text)

    def _settle(self) -> None:
        """Before a marker token and at the end: let go of what the decoder and scanner hold."""
        tail = self._decoder.flush()
        self._logprobs.note(None, len(tail))
        self._decoded(tail)
        if self._scanner is not None:
            self._route(self._scanner.flush())

    def _decoded(self, text: str) -> None:
        while text and self._scanner is not None and not self.stopped:
            scan = self._scanner.push(text)
            self._route(scan.before)
            if scan.found is not None and not self.stopped:
                self._mark("call" if scan.found == self._tool_texts[0] else "end_call", scan.found)
            text = scan.rest
        self._route(text)

    def _route(self, text: str) -> None:
        if self._call is not None:
            self._call.append(text)
        elif self._reasoning:
            self._logprobs.settle(len(text))
            self._emit(Reasoning(text))
        else:
            self._visible(text)

    def _visible(self, text: str) -> None:
        if self._skip_space:
            kept = text.lstrip()
            self._logprobs.drop(len(text) - len(kept))
            self._skip_space = not kept
            text = kept
        self._logprobs.settle(len(text))
        armed = self.token_count >= self._min_tokens
        shown, _ = self._stop.push(text, armed=armed)
        self._show(shown)

    def _show(self, text: str) -> None:
        if text:
            self._emit(Text(text, self._logprobs.take(self._stop.held)))

    # -- markers --------------------------------------------------------------------------------

    def _mark(self, mark: _Mark, marker: str) -> None:
        match mark:
            case "think" | "answer":
                self._show(self._stop.flush())
                self._skip_space = self._skip_space or (self._reasoning and mark == "answer")
                self._reasoning = mark == "think"
            case "call":
                self._give_up_call()
                self._show(self._stop.flush())
                self._call = [marker]
            case "end_call" if self._call is None:
                self._logprobs.drop(len(marker))
            case "end_call":
                self._end_call(marker)

    def _end_call(self, marker: str) -> None:
        parts, self._call = self._call or [], None
        body = parse_call("".join(parts[1:]), self._tools)
        text = "".join(parts) + marker
        if body is None:
            self._route(text)
            return
        self._logprobs.drop(len(text))
        call_id = f"call_{secrets.token_hex(16)}"
        self._emit(ToolCall(self.tool_calls_emitted, call_id, body.name, body.arguments))
        self.tool_calls_emitted += 1

    def _give_up_call(self) -> None:
        """A call that never ends is text after all."""
        if self._call is not None:
            parts, self._call = self._call, None
            self._route("".join(parts))

    # -- events ---------------------------------------------------------------------------------

    def _emit(self, event: Reasoning | Text | ToolCall) -> None:
        if isinstance(event, ToolCall) or event.text:
            self._events.append(event)

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _token_marks(markers: Markers) -> dict[int, tuple[_Mark, str]]:
    marks: dict[int, tuple[_Mark, str]] = {}
    if markers.reasoning is not None:
        marks[markers.reasoning.open_id] = ("think", "")
        marks[markers.reasoning.close_id] = ("answer", "")
    if markers.tool is not None:
        marks[markers.tool.open_id] = ("call", markers.tool.open)
        marks[markers.tool.close_id] = ("end_call", markers.tool.close)
    return marks


def _start(
    tokenizer: Tokenizer, marks: dict[int, tuple[_Mark, str]], prompt_ids: Sequence[int]
) -> tuple[bool, bool]:
    """Replay a prompt: does its output begin in reasoning, and is leading white space dropped?

    That is, if reasoning ends the prompt but for white space (thinking was switched off).
    """
    wanted = {id for id, (mark, _) in marks.items() if mark in ("think", "answer")}
    if wanted.isdisjoint(prompt_ids):  # the longest prompts have none, and are gone through quickly
        return False, False
    only_space = True
    for token_id in reversed(prompt_ids):
        mark, _ = marks.get(token_id, (None, ""))
        if mark in ("think", "answer"):
            return mark == "think", mark == "answer" and only_space
        only_space = only_space and tokenizer.id_to_bytes(token_id).isspace()
    return False, False
