"""An answer as a chat completion: chunks while it runs, one object when it is done."""

from __future__ import annotations

from typing import Any

from helexa.protocol.openai.projection import Head, Projection
from helexa.protocol.openai.usage import chat_logprobs, chat_usage
from helexa.protocol.sse import DONE, Frame
from helexa.text.events import Finish, Text, ToolCall


class ChatAnswer(Projection):
    """One chat completion.

    With ``include_thinking`` reasoning is content, between the model's ``markers`` if it has some;
    without, it goes beside the content.
    """

    def __init__(
        self,
        head: Head,
        *,
        logprobs: bool = False,
        include_thinking: bool = False,
        markers: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._id, self._model, self._created = head.id, head.model, head.created
        self._include_thinking = include_thinking
        self._markers = markers if include_thinking else None
        self._within = False  # an opening marker was sent, its closing one was not
        self._content: list[str] = []
        self._reasoned: list[str] = []
        self._tool_calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] | None = [] if logprobs else None

    def _opening(self) -> list[Frame]:
        return [self._chunk({"role": "assistant"})]

    def _reasoning(self, text: str) -> list[Frame]:
        if not self._include_thinking:
            self._reasoned.append(text)
            return [self._chunk({"reasoning_content": text})]
        frames = []
        if self._markers and not self._within:
            self._within = True
            frames.append(self._said(self._markers[0]))
        return [*frames, self._said(text)]

    def _text(self, event: Text) -> list[Frame]:
        frames = self._close_reasoning()
        if self._logprobs is None:
            return [*frames, self._said(event.text)]
        found = chat_logprobs(event.logprobs)
        self._logprobs += found
        return [*frames, self._said(event.text, found)]

    def _call(self, call: ToolCall, index: int) -> list[Frame]:
        frames = self._close_reasoning()
        made = {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        self._tool_calls.append(made)
        return [*frames, self._chunk({"tool_calls": [{"index": index, **made}]})]

    def _finished(self, finish: Finish) -> list[Frame]:
        return [
            *self._close_reasoning(),
            self._chunk({}, self._ending(finish)),
            Frame({**self._base("chat.completion.chunk", []), "usage": chat_usage(finish.usage)}),
            DONE,
        ]

    def _whole(self, finish: Finish) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content)}
        if self._reasoned:
            message["reasoning_content"] = "".join(self._reasoned)
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        choice: dict[str, Any] = {"index": 0, "message": message, **self._ending(finish)}
        if self._logprobs is not None:
            choice["logprobs"] = {"content": self._logprobs}
        return {**self._base("chat.completion", [choice]), "usage": chat_usage(finish.usage)}

    def _close_reasoning(self) -> list[Frame]:
        if not (self._within and self._markers):
            return []
        self._within = False
        return [self._said(self._markers[1])]

    def _said(self, text: str, logprobs: list[dict[str, Any]] | None = None) -> Frame:
        self._content.append(text)
        return self._chunk({"content": text}, logprobs=logprobs)

    def _chunk(
        self,
        delta: dict[str, Any],
        ending: dict[str, str] | None = None,
        *,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> Frame:
        choice: dict[str, Any] = {"index": 0, "delta": delta, **(ending or {"finish_reason": None})}
        if logprobs is not None:
            choice["logprobs"] = {"content": logprobs}
        return Frame(self._base("chat.completion.chunk", [choice]))

    def _base(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
