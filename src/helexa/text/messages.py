"""Chat messages as templates expect them: plain data, one name for each thing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from helexa.errors import InvalidRequest
from helexa.text.sandbox import NullContent

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


def normalise_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copy messages for a template; order, number and unknown keys stay.

    Null fields are dropped but for the content, which is always there; ``developer`` becomes
    ``system``, reasoning is ``reasoning_content``, call arguments in JSON text become objects.
    Raises InvalidRequest for what is not a list of messages with a role.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise _bad_messages(f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise _bad_messages("there are no messages")
    return [_normalise(plain_data(message), at) for at, message in enumerate(messages)]


def plain_data(value: Any) -> Any:
    """Rebuild a value from plain JSON types, so that a template gets no foreign methods to call.

    Mappings, lists, tuples, dataclasses and pydantic models are copied; an image or array becomes
    a placeholder with its type's name (templates look only whether it is there).
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = map(plain_data, value)
        return tuple(items) if isinstance(value, tuple) else list(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return plain_data(value.model_dump())
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return plain_data(value.item())
    if isinstance(value, bytes | bytearray | set | frozenset):
        raise InvalidRequest(
            f"a template cannot show {type(value).__name__}: {value!r:.60}",
            param="messages",
            hint="pass text, numbers, lists and objects",
        )
    return f"<{type(value).__name__}>"


def content_text(content: Any) -> str:
    """The text of a message's content: a string as it is, parts joined, everything else empty."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "".join(text for text in texts if isinstance(text, str))


def _normalise(message: Any, at: int) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _bad_messages(f"messages[{at}] is not an object with a role")
    kept = {key: value for key, value in message.items() if value is not None}
    _check_content(kept.get("content"), at)
    reasoning = next((kept[key] for key in REASONING_FIELDS if key in kept), None)
    if reasoning is not None:
        kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
    if kept["role"] == "developer":
        kept["role"] = "system"
    if "tool_calls" in kept:
        _check_calls(kept["tool_calls"], at)
        kept["tool_calls"] = [_with_parsed_arguments(call) for call in kept["tool_calls"]]
    kept.setdefault("content", NullContent(name="content"))
    return kept


def _check_content(content: Any, at: int) -> None:
    """Text, parts or nothing; also an object, which some templates take for a tool's result."""
    if isinstance(content, list | tuple):
        if all(isinstance(part, str | dict) for part in content):
            return
        raise _bad_messages(f"messages[{at}] has content parts that are neither text nor objects")
    if content is not None and not isinstance(content, str | dict):
        raise _bad_messages(
            f"messages[{at}] has content that is neither text nor a list of parts but "
            f"{type(content).__name__}"
        )


def has_name(thing: Any) -> bool:
    """Whether a tool, or a call of one, says its name: in its function, or itself."""
    function = thing.get("function", thing) if isinstance(thing, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _check_calls(calls: Any, at: int) -> None:
    if not isinstance(calls, list | tuple) or not all(map(has_name, calls)):
        raise _bad_messages(
            f"messages[{at}].tool_calls is not a list of calls whose functions have names"
        )


def _with_parsed_arguments(call: Any) -> Any:
    """A call whose JSON text arguments are an object; any other is returned as it is."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _bad_messages(fact: str) -> InvalidRequest:
    return InvalidRequest(
        fact, param="messages", hint='pass a list such as [{"role": "user", "content": "hi"}]'
    )
