"""Which roles of a chat template can show content as a list of parts, found out by trying.

Most templates take strings only: handed a list they fail, show nothing, or show Python's own
notation. For them a list of texts is made one text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

ROLES: Final = ("system", "user", "assistant", "tool")
SEPARATOR: Final = "\n"
"""Between the texts of a list, as other servers have it."""

_PROBE: Final = "probe1f0e7c"
_CALL_ID: Final = "probe1f0e"  # nine characters: some templates insist on it
_USER: Final = {"role": "user", "content": "a"}
_CALL: Final = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": _CALL_ID, "type": "function", "function": {"name": "f", "arguments": {}}}
    ],
}

Messages = Sequence[Mapping[str, Any]]


def text_roles(render: Callable[[Messages], str]) -> frozenset[str]:
    """The roles that a template shows as strings and not as lists of parts.

    ``render`` may raise whatever it likes. A role that is shown in neither way goes with the user.
    """
    found = {role: _takes_text_only(render, role) for role in ROLES}
    user = found["user"]
    return frozenset(role for role, only in found.items() if (user if only is None else only))


def joined_texts(messages: Messages, roles: frozenset[str]) -> list[dict[str, Any]]:
    """The messages with every list of only texts, in one of ``roles``, made one text."""
    return [
        {**message, "content": text}
        if _kind(message.get("role")) in roles
        and (text := _one_text(message.get("content"))) is not None
        else dict(message)
        for message in messages
    ]


def _takes_text_only(render: Callable[[Messages], str], role: str) -> bool | None:
    text = _shown(render, role, _PROBE)
    if text is None or _PROBE not in text:
        return None
    parts = _shown(render, role, [{"type": "text", "text": _PROBE}])
    return parts is None or _PROBE not in parts or parts.count("type") > text.count("type")


def _shown(render: Callable[[Messages], str], role: str, content: Any) -> str | None:
    try:
        return render(_conversation(role, content))
    except Exception:  # a template is a program: whatever it raises is its failure
        return None


def _conversation(role: str, content: Any) -> list[dict[str, Any]]:
    """A conversation in which a message of ``role`` stands where templates expect it."""
    probe = {"role": role, "content": content}
    match role:
        case "system":
            return [probe, _USER]
        case "assistant":
            return [_USER, probe, _USER]
        case "tool":
            return [_USER, _CALL, {**probe, "tool_call_id": _CALL_ID, "name": "f"}]
    return [probe]


def _kind(role: object) -> str:
    return role if role in ROLES and isinstance(role, str) else "user"


def _one_text(content: object) -> str | None:
    """The texts of a list as one; None for what is no list of only texts."""
    if not isinstance(content, list | tuple):
        return None
    texts = [_text_of(part) for part in content]
    found = [text for text in texts if text is not None]
    return SEPARATOR.join(found) if len(found) == len(texts) else None


def _text_of(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type", "text") != "text":
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None
