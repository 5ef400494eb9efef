"""An answer as a response: typed events while it runs, one object when it is done.

The output is a list of items: reasoning runs, one message, calls. An item is announced, filled and
closed by events; its place in the list is the order of the announcements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helexa.protocol.envelope import wire_error
from helexa.protocol.openai.projection import Head, Projection
from helexa.protocol.openai.usage import response_usage
from helexa.protocol.sse import Frame
from helexa.text.events import Finish, Text, ToolCall


@dataclass(slots=True)
class _Item:
    """An item that was announced: its place, its fields so far, and whether it is closed."""

    index: int
    fields: dict[str, Any]
    text: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.fields["id"], "output_index": self.index}


class ResponseAnswer(Projection):
    """One response.

    ``message_id`` names its message item, all other items are named after the response. ``echo``
    are fields of the request that the response repeats, such as its tools; none by default.
    """

    def __init__(
        self, head: Head, *, message_id: str, echo: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._id, self._model, self._created = head.id, head.model, head.created
        self._hex = head.id.removeprefix("resp_")
        self._message_id = message_id
        self._echo = dict(echo or {})
        self._next_number = 0
        self._items: list[_Item] = []
        self._open_reasoning: _Item | None = None
        self._reasoning_runs = 0
        self._message: _Item | None = None

    def _opening(self) -> list[Frame]:
        shell = self._shell("in_progress", [])
        return [
            self._event("created", {"response": shell}),
            self._event("in_progress", {"response": shell}),
        ]

    def _reasoning(self, text: str) -> list[Frame]:
        item = self._open_reasoning
        frames: list[Frame] = []
        if item is None:
            run = f"_{self._reasoning_runs}" if self._reasoning_runs else ""
            self._reasoning_runs += 1
            item, frames = self._announce(
                {"type": "reasoning", "id": f"rs_{self._hex}{run}", "summary": []}
            )
            self._open_reasoning = item
            part = {"part": _summary("")}
            frames.append(self._of_summary("reasoning_summary_part.added", item, part))
        item.text.append(text)
        delta = self._of_summary("reasoning_summary_text.delta", item, {"delta": text})
        return [*frames, delta]

    def _text(self, event: Text) -> list[Frame]:
        item, frames = self._reach_message()
        item.text.append(event.text)
        return [*frames, self._of_content("output_text.delta", item, {"delta": event.text})]

    def _call(self, call: ToolCall, index: int) -> list[Frame]:
        _, frames = self._reach_message()
        told = {"call_id": call.id, "name": call.name}
        item, announced = self._announce(
            {"type": "function_call", "id": f"fc_{self._hex}_{index}", **told, "arguments": ""}
        )
        delta = {**item.place, "delta": call.arguments}
        done = {**item.place, **told, "arguments": call.arguments}
        return [
            *frames,
            *announced,
            self._event("function_call_arguments.delta", delta),
            self._event("function_call_arguments.done", done),
            self._done(item, {"arguments": call.arguments}),
        ]

    def _finished(self, finish: Finish) -> list[Frame]:
        item, frames = self._reach_message()
        text = "".join(item.text)
        part = _output_text(text)
        return [
            *frames,
            self._of_content("output_text.done", item, {"text": text}),
            self._of_content("content_part.done", item, {"part": part}),
            self._done(item, {"content": [part]}, _status(finish)),
            self._event("completed", {"response": self._whole(finish)}),
        ]

    def _whole(self, finish: Finish) -> dict[str, Any]:
        shell = self._shell(_status(finish), self._output())
        if finish.reason == "length":
            shell["incomplete_details"] = {"reason": "max_output_tokens"}
        return {**shell, "usage": response_usage(finish.usage)}

    def _failed(self, error: BaseException) -> list[Frame]:
        wire = wire_error(error)
        reason = {"code": wire.code or "server_error", "message": wire.message}
        response = {**self._shell("failed", self._output()), "error": reason}
        return [*self.open(), self._event("failed", {"response": response})]

    def _reach_message(self) -> tuple[_Item, list[Frame]]:
        """Close the reasoning that is open, and open the message unless it is."""
        frames = self._close_reasoning()
        if self._message is None:
            self._message, announced = self._announce(
                {"type": "message", "id": self._message_id, "role": "assistant", "content": []}
            )
            part = {"part": _output_text("")}
            added = self._of_content("content_part.added", self._message, part)
            frames += [*announced, added]
        return self._message, frames

    def _close_reasoning(self) -> list[Frame]:
        item, self._open_reasoning = self._open_reasoning, None
        if item is None:
            return []
        text = "".join(item.text)
        part = _summary(text)
        return [
            self._of_summary("reasoning_summary_text.done", item, {"text": text}),
            self._of_summary("reasoning_summary_part.done", item, {"part": part}),
            self._done(item, {"summary": [part]}),
        ]

    def _announce(self, fields: dict[str, Any]) -> tuple[_Item, list[Frame]]:
        item = _Item(len(self._items), {**fields, "status": "in_progress"})
        self._items.append(item)
        data = {"output_index": item.index, "item": item.fields}
        return item, [self._event("output_item.added", data)]

    def _done(self, item: _Item, fields: dict[str, Any], status: str = "completed") -> Frame:
        item.fields = {**item.fields, **fields, "status": status}
        item.done = True
        return self._event("output_item.done", {"output_index": item.index, "item": item.fields})

    def _output(self) -> list[dict[str, Any]]:
        return [item.fields for item in self._items if item.done]

    def _of_summary(self, name: str, item: _Item, fields: dict[str, Any]) -> Frame:
        return self._event(name, {**item.place, "summary_index": 0, **fields})

    def _of_content(self, name: str, item: _Item, fields: dict[str, Any]) -> Frame:
        return self._event(name, {**item.place, "content_index": 0, **fields})

    def _event(self, name: str, fields: dict[str, Any]) -> Frame:
        name = f"response.{name}"
        number, self._next_number = self._next_number, self._next_number + 1
        return Frame({"type": name, "sequence_number": number, **fields}, name)

    def _shell(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": output,
            **self._echo,
        }


def _status(finish: Finish) -> str:
    return "incomplete" if finish.reason == "length" else "completed"


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}
