"""The conversation: Anthropic's messages of blocks as OpenAI's messages.

One of Anthropic's messages can be several of OpenAI's, since there a tool's result is a message of
its own, and they all come first. What is text only becomes a string.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from helexa.gateway.refusals import InvalidAnthropicBody
from helexa.protocol.json_text import to_json

NO_ID: Final = "toolu_unknown"


def chat_messages(system: Any, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All messages; everything that is said as the system becomes one message before them.

    Takes what `check_body` has seen. Raises InvalidAnthropicBody for a number that is not JSON.
    """
    told = [] if system is None or system == [] else [_system_text(system)]
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "system":
            found += _chat_messages(message)
        elif message["content"] != []:
            told.append(_system_text(message["content"], in_place=True))
    if told:
        found.insert(0, {"role": "system", "content": "\n\n".join(told)})
    return found


def _system_text(content: str | list[Any], *, in_place: bool = False) -> str:
    """The texts of a system prompt, line by line; ``in_place``: other blocks stand there, too."""
    if isinstance(content, str):
        return content
    texts = [
        block["text"] if _is_text(block) else _json(block)
        for block in content
        if in_place or _is_text(block)
    ]
    return "\n".join(texts) if texts else _json(content)


@dataclass(slots=True)
class _Found:
    """What the blocks of one message come to."""

    results: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)

    @property
    def content(self) -> str | list[dict[str, Any]]:
        """A string if there is only text."""
        return self.parts if len(self.parts) > len(self.texts) else "".join(self.texts)


def _chat_messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    found = _Found()
    for block in content:
        _read(block, found)
    said: dict[str, Any] = {"role": role, "content": found.content}
    if found.calls:
        said["tool_calls"] = found.calls
    if found.thoughts and role == "assistant":
        said["reasoning_content"] = "".join(found.thoughts)
    if said["content"] or len(said) > 2 or (found.parts and not found.results):
        return [*found.results, said]
    return found.results  # beside them an empty text would be a turn of its own


def _read(block: dict[str, Any], found: _Found) -> None:
    kind = block["type"]
    if _is_text(block):
        found.texts.append(block["text"])
        found.parts.append({"type": "text", "text": block["text"]})
    elif kind == "tool_use":
        found.calls.append(_call(block))
    elif kind == "tool_result":
        found.results.append(_result(block, found))
    elif kind == "image":
        _add_image(block, found)
    elif kind == "thinking":
        if isinstance(block.get("thinking"), str):
            found.thoughts.append(block["thinking"])
    elif kind != "redacted_thinking":
        found.parts.append(block)


def _call(block: dict[str, Any]) -> dict[str, Any]:
    given = block.get("input")
    function = {"name": _text(block.get("name"), ""), "arguments": {} if given is None else given}
    return {"id": _text(block.get("id"), NO_ID), "type": "function", "function": function}


def _result(block: dict[str, Any], found: _Found) -> dict[str, Any]:
    """The message of a tool; OpenAI's has no images, so they go to the user's that follows it."""
    content = block.get("content")
    texts: list[str] = []
    for item in content if isinstance(content, list) else []:
        if _is_text(item):
            texts.append(item["text"])
        elif isinstance(item, dict) and item.get("type") == "image":
            _add_image(item, found)
        else:
            texts.append(_json(item))
    if isinstance(content, str):
        texts.append(content)
    elif content is not None and not isinstance(content, list):
        texts.append(_json(content))
    return {
        "role": "tool",
        "content": "".join(texts),
        "tool_call_id": _text(block.get("tool_use_id"), NO_ID),
    }


def _add_image(block: dict[str, Any], found: _Found) -> None:
    url = _image_url(block.get("source"))
    if url is not None:
        found.parts.append({"type": "image_url", "image_url": {"url": url}})


def _image_url(source: Any) -> str | None:
    """Where an image is, or all of it; None for a source that OpenAI has no form for."""
    if not isinstance(source, dict):
        return None
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return f"data:{_text(source.get('media_type'), 'image/png')};base64,{source['data']}"
    url = source.get("url") if source.get("type") == "url" else None
    return url if isinstance(url, str) else None


def _is_text(block: Any) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    )


def _text(value: Any, default: str) -> str:
    return value if isinstance(value, str) else default


def _json(value: Any) -> str:
    try:
        return to_json(value).decode()
    except ValueError as error:
        raise InvalidAnthropicBody("messages", "have a number that is too large") from error
