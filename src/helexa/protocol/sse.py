"""Server-sent events as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helexa.protocol.json_text import to_json

KEEP_ALIVE = b":\n\n"
"""A comment: says that the connection lives, and nothing else."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: its data, a JSON object or the end mark's text, and its name if it has one."""

    data: Mapping[str, Any] | str
    event: str | None = None

    def encode(self) -> bytes:
        """The frame as it goes over the wire, blank line included."""
        data = self.data.encode() if isinstance(self.data, str) else to_json(self.data)
        name = b"" if self.event is None else f"event: {self.event}\n".encode()
        return b"%bdata: %b\n\n" % (name, data)


DONE = Frame("[DONE]")
"""Ends a complete stream of the chat and completions surfaces."""
