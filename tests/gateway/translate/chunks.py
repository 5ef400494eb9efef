"""Chat streams to translate, and message streams read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from helexa.gateway.translate.messages_stream import MessagesStream

Event = tuple[str, dict[str, Any]]


def chunk(delta: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    """A chunk with one choice; without a delta it has none, as the one that tells the usage."""
    usage = choice.pop("usage", None)
    found: dict[str, Any] = {
        "id": "chatcmpl-stream-001",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "Qwen/Qwen3-8B",
        "choices": [],
    }
    if delta is not None or choice:
        found["choices"] = [{"index": 0, "delta": delta or {}, "finish_reason": None, **choice}]
    return found if usage is None else {**found, "usage": usage}


def text(content: str) -> dict[str, Any]:
    return chunk({"content": content})


def call(index: int | None = 0, **fields: Any) -> dict[str, Any]:
    """A fragment of a call; `name` and `arguments` are of its function."""
    function = {key: fields.pop(key) for key in ("name", "arguments") if key in fields}
    entry = {"type": "function", "function": function, **fields}
    return chunk({"tool_calls": [entry if index is None else {"index": index, **entry}]})


def wire(chunks: Iterable[dict[str, Any]], *, done: bool = True) -> bytes:
    frames = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return b"".join(frames) + (b"data: [DONE]\n\n" if done else b"")


def tokens(count: int) -> bytes:
    """A stream of so many deltas and nothing else."""
    return wire(text(f"token{n}") for n in range(count))


def translated(body: bytes, *, thinking: bool = False, size: int | None = None) -> bytes:
    """A whole stream, fed in pieces of ``size`` bytes."""
    stream = MessagesStream(thinking)
    step = size or max(len(body), 1)
    found = b"".join(stream.feed(body[at : at + step]) for at in range(0, len(body), step))
    return found + stream.ended()


def events(frames: bytes) -> list[Event]:
    """The events of a message stream; each frame is checked for its form."""
    *blocks, rest = frames.decode().split("\n\n")
    assert rest == ""
    found: list[Event] = []
    for block in blocks:
        first, second = block.split("\n")
        name = first.removeprefix("event: ")
        data = json.loads(second.removeprefix("data: "))
        assert (first, data["type"]) == (f"event: {name}", name)
        found.append((name, data))
    return found


def names(found: list[Event]) -> list[str]:
    return [name for name, _ in found]


def data_of(found: list[Event], name: str) -> list[dict[str, Any]]:
    return [data for kind, data in found if kind == name]


def said(found: list[Event], key: str = "text") -> str:
    """What the deltas add up to."""
    deltas = (data["delta"] for data in data_of(found, "content_block_delta"))
    return "".join(delta.get(key, "") for delta in deltas)
