"""Is this JSON a request of the messages API? Only what the translation relies on is checked.

Null counts as absent, as clients write it for an option that is not set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

from helexa.gateway.refusals import InvalidAnthropicBody, ThreadsNotKept


def check_body(body: Any, *, counting: bool = False) -> dict[str, Any]:
    """The body, if it has the shape of a request; ``counting``: `max_tokens` may be left out.

    Raises InvalidAnthropicBody, which names the first place that is wrong and never its value, and
    ThreadsNotKept.
    """
    if not isinstance(body, dict):
        _wrong("body", "must be a JSON object")
    _check_model(body.get("model"))
    _check_messages(body.get("messages"))
    _check_length(body.get("max_tokens"), counting)
    for key, (fits, what) in _OPTIONS.items():
        value = body.get(key)
        if value is not None and not fits(value):
            _wrong(key, what)
    if body.get("thread") is not None:
        raise ThreadsNotKept  # without what came before, an answer would look like one and be none
    return body


def _check_model(model: Any) -> None:
    if model is None:
        _wrong("model", "is required")
    if not isinstance(model, str) or not model:
        _wrong("model", "must be a non-empty string")


def _check_length(max_tokens: Any, counting: bool) -> None:
    if max_tokens is None:
        if not counting:
            _wrong("max_tokens", "is required")
    elif not _is_integer(max_tokens) or max_tokens < 1:
        _wrong("max_tokens", "must be an integer of at least 1")


def _check_messages(messages: Any) -> None:
    if messages is None:
        _wrong("messages", "is required")
    if not isinstance(messages, list):
        _wrong("messages", "must be a list")
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            _wrong(f"messages[{at}]", "must be an object")
        if not isinstance(message.get("role"), str):
            _wrong(f"messages[{at}].role", "must be a string")
        content = message.get("content")
        if isinstance(content, list):
            _check_blocks(content, f"messages[{at}].content")
        elif not isinstance(content, str):
            _wrong(f"messages[{at}].content", "must be a string or a list of blocks")


def _check_blocks(blocks: list[Any], where: str) -> None:
    for at, block in enumerate(blocks):
        if not isinstance(block, dict):
            _wrong(f"{where}[{at}]", "must be an object")
        if not isinstance(block.get("type"), str):
            _wrong(f"{where}[{at}].type", "must be a string")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


_OPTIONS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "system": (lambda value: isinstance(value, str | list), "must be a string or a list of blocks"),
    "temperature": (_is_number, "must be a number"),
    "top_p": (_is_number, "must be a number"),
    "top_k": (
        lambda value: _is_integer(value) and value >= 0,
        "must be an integer of at least 0",
    ),
    "stream": (lambda value: isinstance(value, bool), "must be true or false"),
    "stop_sequences": (
        lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
        "must be a list of strings",
    ),
}


def _wrong(where: str, what: str) -> NoReturn:
    raise InvalidAnthropicBody(where, what)
