"""Names of answers: a prefix that says which surface, and 32 random hex digits."""

from __future__ import annotations

import uuid
from collections.abc import Callable

Hex = Callable[[], str]


def random_hex() -> str:
    """32 hex digits that nobody has had before."""
    return uuid.uuid4().hex


def chat_id(hex32: Hex = random_hex) -> str:
    """Of a chat completion."""
    return f"chatcmpl-{hex32()}"


def completion_id(hex32: Hex = random_hex) -> str:
    """Of a plain completion."""
    return f"cmpl-{hex32()}"


def response_id(hex32: Hex = random_hex) -> str:
    """Of a response; its items are named after it."""
    return f"resp_{hex32()}"


def message_id(hex32: Hex = random_hex) -> str:
    """Of a response's message item."""
    return f"msg_{hex32()}"


def request_id(given: str | None, hex32: Hex = random_hex) -> str:
    """The client's own name for its request if it is 1 to 128 visible ASCII characters."""
    if given is not None and is_visible_ascii(given, 128):
        return given
    return f"req_{hex32()}"


def is_visible_ascii(text: str, most: int) -> bool:
    """Whether a text is 1 to ``most`` characters from ``!`` to ``~``."""
    return 1 <= len(text) <= most and all("!" <= c <= "~" for c in text)
