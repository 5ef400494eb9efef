"""Messages and tools of a chat request: what their JSON must look like, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from helexa.protocol.fields import Object, Text, wrong_shape
from helexa.refusals import UnsupportedParameter

REFUSED_PARTS: Final = (
    *("input_audio", "file", "video_url", "image"),
    *("document", "search_result"),  # Anthropic's: a gateway passes them on as they are
)


def _content(value: Any) -> Any:
    """Text, null, or parts, each an object whose type and text are strings."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_shape("must be a string, a list of parts or null")
    for at, part in enumerate(value):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise wrong_shape(f"has a part {at} that is not an object with a type")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise wrong_shape(f"has a text part {at} without a text")
    return value


class Sent(BaseModel):
    """An object that goes on as it came, unknown keys and nulls included."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise wrong_shape("must be an object")
        return value

    def plain(self) -> dict[str, Any]:
        """What was sent."""
        return self.model_dump(exclude_unset=True)


class ChatMessage(Sent):
    """One message of any role."""

    role: Text
    content: Annotated[Any, AfterValidator(_content)] = None
    name: Text | None = None
    tool_calls: list[Object] | None = None
    tool_call_id: Text | None = None


class Function(Sent):
    """What a tool is called, and what it takes."""

    name: Text
    description: Text | None = None
    parameters: Object | None = None


class Tool(Sent):
    """Something that the model may call; only functions are."""

    type: Text = "function"
    function: Function | None = None

    @model_validator(mode="after")
    def _has_function(self) -> Tool:
        if self.type == "function" and self.function is None:
            raise wrong_shape("must have a function")
        return self


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as plain data; UnsupportedParameter for a part of a kind that is not served."""
    found = [message.plain() for message in messages]
    for at, message in enumerate(found):
        parts = message.get("content")
        for part_at, part in enumerate(parts if isinstance(parts, list) else ()):
            if part["type"] in REFUSED_PARTS:
                raise UnsupportedParameter(
                    f"content parts of type {part['type']} are not supported",
                    param=f"messages[{at}].content[{part_at}]",
                    hint="send images as image_url" if part["type"] == "image" else "",
                )
    return found


def plain_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools as plain data, None for none; UnsupportedParameter for what is no function."""
    for at, tool in enumerate(tools or ()):
        if tool.function is None:
            raise UnsupportedParameter(
                f"tools of type {tool.type!r:.40} are not supported, only functions are",
                param=f"tools[{at}].type",
            )
    return [tool.plain() for tool in tools] if tools else None


def tool_names(tools: Sequence[Mapping[str, Any]] | None) -> set[str]:
    """What the offered tools are called."""
    return {tool["function"]["name"] for tool in tools or ()}
