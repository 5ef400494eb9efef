"""What is copied within a cache between two steps."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Copy(NamedTuple):
    """A page or a state whose contents another is given, before the next step."""

    what: Literal["page", "state"]
    source: int
    target: int
