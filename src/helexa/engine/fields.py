"""Typed reading of a JSON object whose author may have erred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from helexa.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object; ``place`` says in messages which file and object it is.

    ``null`` counts as absent. A field of the wrong type, out of range, or absent without a default
    raises CheckpointError naming the place and the field.
    """

    place: str
    values: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def get(self, name: str) -> Any:
        """The raw value, None if absent."""
        return self.values.get(name)

    def wrong(self, name: str, wanted: str) -> CheckpointError:
        """The error for a field that is not what it must be."""
        shown = repr(self.values.get(name))
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return CheckpointError(
            f"{self.place}: `{name}` must be {wanted}, not {shown}",
            hint="correct the file or fetch the model again",
        )

    def default(self, name: str, default: T | None) -> T:
        """``default``, or the error for an absent field if that is None."""
        if default is None:
            raise CheckpointError(
                f"{self.place}: required field `{name}` is missing",
                hint="the config is incomplete; fetch the model again",
            )
        return default

    def integer(self, name: str, default: int | None = None, *, at_least: int = 1) -> int:
        """An integer ≥ ``at_least``; 64.0 is taken as 64."""
        value = self.values.get(name)
        if value is None:
            return self.default(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise self.wrong(name, f"an integer of at least {at_least}")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number > 0."""
        value = self.values.get(name)
        if value is None:
            return self.default(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a positive number")
        if not (math.isfinite(value) and value > 0):
            raise self.wrong(name, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self.values.get(name)
        if value is None:
            return self.default(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings, empty if absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of strings")
        return tuple(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Token ids given as one integer or a list of them, empty if absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise self.wrong(name, "a token id or a list of them")
        return tuple(ids)

    def section(self, name: str) -> Fields:
        """A nested object, empty if absent."""
        value = self.values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(f"{self.place}: `{name}`", value)
