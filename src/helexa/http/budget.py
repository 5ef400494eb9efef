"""How much of request bodies may be in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helexa.errors import HelexaError


class BodyBudget:
    """So many bytes for the bodies of all requests together, of one server or of several.

    Bytes count from when they have come until their request has ended. ``refuse`` makes the error
    for who comes when it is spent.
    """

    def __init__(self, max_bytes: int, refuse: Callable[[], HelexaError]) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._refuse = refuse

    def require(self, size: int) -> None:
        """Raise the refusal unless so many bytes more may be held."""
        if self.held_bytes + size > self.max_bytes:
            raise self._refuse()

    def take(self, size: int) -> None:
        """Hold so many bytes. Raises the refusal."""
        self.require(size)
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Hold so many less."""
        self.held_bytes -= size


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What one body may be at most, and what all of them."""

    max_bytes: int
    budget: BodyBudget | None = None
