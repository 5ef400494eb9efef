"""A stream of chat chunks as the events of a message.

    translator = StreamTranslator(thinking)
    for chunk in chunks:
        events = translator.on_chunk(chunk)     # [(name, data), …]
    events = translator.finish()

Plain data in and out; `messages_stream` adds the bytes. Once it is ``over``, by `finish` or by an
error, nothing more comes.
"""

from __future__ import annotations

from typing import Any

from helexa.gateway.translate.answer import (
    arguments_text,
    count,
    drafts,
    input_usage,
    message_id,
    stop_reason,
    text_or,
    tool_use_id,
)

Event = tuple[str, dict[str, Any]]

UPSTREAM_FAILED = "upstream request failed"
INTERLEAVED = "interleaved tool calls are not supported"


def error_event(message: str) -> Event:
    """The event that ends a stream which cannot be completed."""
    return "error", {"type": "error", "error": {"type": "api_error", "message": message}}


class StreamTranslator:
    """One answer: a message that opens, blocks one after the other, and a message that stops.

    ``thinking``: the request asked to see reasoning, which is left out otherwise.
    """

    __slots__ = (
        "_call",
        "_calls",
        "_finish_reason",
        "_index",
        "_last_call",
        "_open",
        "_stop",
        "_text_deltas",
        "_thinking",
        "_usage",
        "over",
        "started",
    )

    def __init__(self, thinking: bool) -> None:
        self.started = False
        self.over = False
        self._thinking = thinking
        self._index = -1  # of the block that was opened last
        self._open = ""  # its type while it is open
        self._call: int | None = None  # the index of the call that it is, if it is one
        self._calls: dict[int, object] = {}  # what the neuron calls the last one of each index
        self._last_call = -1  # the highest index of a call
        self._text_deltas = 0
        self._finish_reason: str | None = None
        self._stop: str | None = None
        self._usage: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the model has said why it stopped: nothing but usage can follow."""
        return self._finish_reason is not None

    def on_chunk(self, chunk: dict[str, Any]) -> list[Event]:
        """The events for one chunk. Raises UpstreamMalformed for arguments that are not JSON."""
        if self.over:
            return []
        if chunk.get("error") is not None:
            return self.fail(_message(chunk["error"]))
        events: list[Event] = []
        if not self.started:
            events.append(self._start(chunk))
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        choice = _first_choice(chunk.get("choices"))
        if choice is not None:
            self._on_choice(choice, events)
        return events

    def finish(self) -> list[Event]:
        """The events that end the message, once; none if it has not begun."""
        if self.over or not self.started:
            return []
        self.over = True
        events: list[Event] = []
        self._close(events)
        reason, sequence = stop_reason(self._finish_reason, self._stop, bool(self._calls))
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage: dict[str, Any] = {"output_tokens": self._text_deltas}
        if self._usage is not None:
            completed = count(self._usage.get("completion_tokens"))
            usage = {
                **input_usage(self._usage),
                "output_tokens": self._text_deltas if completed is None else completed,
                **drafts(self._usage),
            }
        events.append(("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        events.append(("message_stop", {"type": "message_stop"}))
        return events

    def fail(self, message: str) -> list[Event]:
        """The event that breaks the answer off, once."""
        if self.over:
            return []
        self.over = True
        return [error_event(message)]

    def _start(self, chunk: dict[str, Any]) -> Event:
        self.started = True
        message: dict[str, Any] = {
            "id": message_id(chunk.get("id")),
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": text_or(chunk.get("model"), ""),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return "message_start", {"type": "message_start", "message": message}

    def _on_choice(self, choice: dict[str, Any], events: list[Event]) -> None:
        if (reason := choice.get("finish_reason")) and isinstance(reason, str):
            self._finish_reason = reason
        if (stop := choice.get("stop_reason")) and isinstance(stop, str):
            self._stop = stop
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and self._thinking and isinstance(reasoning, str):
            self._on_reasoning(reasoning, events)
        text = delta.get("content")
        if text and isinstance(text, str):
            self._on_text(text, events)
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                if isinstance(call, dict) and not self.over:
                    self._on_call(call, events)

    def _on_text(self, text: str, events: list[Event]) -> None:
        if self._open != "text":
            self._begin({"type": "text", "text": ""}, events)
        self._text_deltas += 1
        self._add({"type": "text_delta", "text": text}, events)

    def _on_reasoning(self, text: str, events: list[Event]) -> None:
        if self._open != "thinking":
            self._begin({"type": "thinking", "thinking": "", "signature": ""}, events)
        self._add({"type": "thinking_delta", "thinking": text}, events)

    def _on_call(self, call: dict[str, Any], events: list[Event]) -> None:
        """A call, or more of one. Without an index it is a new one if it has a name.

        Some neurons give every call the same index: a name with another id is a new one, too.
        """
        given = call.get("function")
        function = given if isinstance(given, dict) else {}
        name = text_or(function.get("name"), "")
        arguments = function.get("arguments")
        index = count(call.get("index"))
        if index is None:
            index = self._last_call + bool(name or not self._calls)
        id = call.get("id")
        new = index not in self._calls or (name and id and id != self._calls[index])
        if new and (name or arguments):
            block = {"type": "tool_use", "id": tool_use_id(id), "name": name}
            self._begin({**block, "input": {}}, events)
            self._calls[index] = id
            self._call = index
            self._last_call = max(self._last_call, index)
        if arguments is None or arguments == "":
            return
        if self._call != index:
            events += self.fail(INTERLEAVED)
            return
        partial = arguments_text(arguments)
        self._add({"type": "input_json_delta", "partial_json": partial}, events)

    def _begin(self, block: dict[str, Any], events: list[Event]) -> None:
        self._close(events)
        self._index += 1
        self._open = block["type"]
        data = {"type": "content_block_start", "index": self._index, "content_block": block}
        events.append(("content_block_start", data))

    def _add(self, delta: dict[str, str], events: list[Event]) -> None:
        data = {"type": "content_block_delta", "index": self._index, "delta": delta}
        events.append(("content_block_delta", data))

    def _close(self, events: list[Event]) -> None:
        if self._open:
            data = {"type": "content_block_stop", "index": self._index}
            events.append(("content_block_stop", data))
        self._open = ""
        self._call = None


def _first_choice(choices: Any) -> dict[str, Any] | None:
    """Choice 0: the only one that a message can hold."""
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) in (0, None):
            return choice
    return None


def _message(error: Any) -> str:
    """What an error inside a stream says."""
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) and text else UPSTREAM_FAILED
