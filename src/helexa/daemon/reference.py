"""The reference of a configuration, made from the settings themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, Field
from typing import Any

from helexa.daemon.schema import Kind, Nested, settings_of


def keys(settings: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key: its path, what it must be, its default, what it means."""
    for entry in settings_of(settings).values():
        name, kind = f"{prefix}{entry.name}", entry.metadata["kind"]
        if isinstance(kind, Kind):
            yield name, kind.wanted, default_of(entry), entry.metadata["doc"]
        elif isinstance(kind, Nested) and not kind.many:
            yield from keys(kind.settings, f"{name}.")
        elif kind.many == "rows":
            yield name, "a list of tables", default_of(entry), entry.metadata["doc"]
            yield from keys(kind.settings, f"{name}[].")
        else:
            yield name, "tables by name", "none", entry.metadata["doc"]
            yield from keys(kind.settings, f"{name}.<scheme>.")


def default_of(entry: Field[Any]) -> str:
    """The default as it would be written, or in words where it depends on other keys."""
    described: str = entry.metadata.get("default_text", "")
    if entry.metadata.get("required"):
        return "required"
    if described:
        return f"`{described}`" if described[0] in "[{" else described
    if entry.default in (None, MISSING):
        return "none"
    return f"`{json.dumps(entry.default)}`"
