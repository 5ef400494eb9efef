"""An answer as a plain text completion: pieces while it runs, one object when it is done."""

from __future__ import annotations

from typing import Any

from helexa.protocol.openai.projection import Head, Projection
from helexa.protocol.openai.usage import chat_usage, finite
from helexa.protocol.sse import DONE, Frame
from helexa.text.events import Finish, FinishReason, Text, TokenLogprob, ToolCall


class CompletionAnswer(Projection):
    """One plain completion: everything the model says is text."""

    def __init__(self, head: Head, *, logprobs: bool = False) -> None:
        super().__init__()
        self._id, self._model, self._created = head.id, head.model, head.created
        self._pieces: list[str] = []
        self._length = 0  # of the text so far, in characters
        self._logprobs = _no_logprobs() if logprobs else None

    def _opening(self) -> list[Frame]:
        return []

    def _reasoning(self, text: str) -> list[Frame]:
        return self._text(Text(text))

    def _text(self, event: Text) -> list[Frame]:
        found = None
        if self._logprobs is not None:
            found = _columns(event.logprobs, self._length)
            for name, column in found.items():
                self._logprobs[name] += column
        self._pieces.append(event.text)
        self._length += len(event.text)
        return [Frame(self._object([_choice(event.text, found)]))]

    def _call(self, call: ToolCall, index: int) -> list[Frame]:
        return []  # plain output is not parsed: there are none

    def _finished(self, finish: Finish) -> list[Frame]:
        return [
            Frame(self._object([_choice("", None, self._ending(finish))])),
            Frame({**self._object([]), "usage": chat_usage(finish.usage)}),
            DONE,
        ]

    def _whole(self, finish: Finish) -> dict[str, Any]:
        choice = _choice("".join(self._pieces), self._logprobs, self._ending(finish))
        return {**self._object([choice]), "usage": chat_usage(finish.usage)}

    def _reason(self, finish: Finish) -> FinishReason:
        return "length" if finish.reason == "length" else "stop"

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


def _choice(
    text: str, logprobs: dict[str, list[Any]] | None, ending: dict[str, str] | None = None
) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": logprobs, **(ending or {"finish_reason": None})}


def _no_logprobs() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _columns(logprobs: tuple[TokenLogprob, ...], offset: int) -> dict[str, list[Any]]:
    """The surface's own layout: one list per property; offsets count the completion's characters.

    Of candidates that read the same, such as two halves of a character, the likelier one is told.
    """
    columns = _no_logprobs()
    for found in logprobs:
        columns["tokens"].append(found.token)
        columns["token_logprobs"].append(finite(found.logprob))
        likeliest_last = [found, *reversed(found.top)]
        top = {other.token: finite(other.logprob) for other in likeliest_last}
        columns["top_logprobs"].append(top)
        columns["text_offset"].append(offset)
        offset += len(found.token)
    return columns
