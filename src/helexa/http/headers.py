"""Header fields: bytes as they came, read without regard to case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

Field = tuple[bytes, bytes]


def fields_of(headers: HeaderInput) -> list[Field]:
    """The fields of a mapping or of pairs, names in lower case."""
    if isinstance(headers, Headers):
        return list(headers.fields)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(_bytes(name).lower(), _bytes(value)) for name, value in pairs]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


class Headers:
    """The fields of one message, in order; repeated ones are kept.

    ``fields`` holds lower-case names and values in bytes; the methods speak text (latin-1).
    """

    __slots__ = ("_by_name", "fields")

    def __init__(self, fields: Iterable[Field], by_name: dict[bytes, bytes] | None = None) -> None:
        """``by_name``: the same, where no name is repeated."""
        self.fields = tuple(fields)
        self._by_name = by_name

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first field of this name."""
        value = self.first(name.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def first(self, name: bytes) -> bytes | None:
        """The first field of this lower-case name, as it came."""
        if self._by_name is not None:
            return self._by_name.get(name)
        for key, value in self.fields:
            if key == name:
                return value
        return None

    def all(self, name: str) -> list[str]:
        """Every field of this name."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self.fields if key == wanted]

    def tokens(self, name: str) -> set[str]:
        """The comma-separated words of every field of this name, in lower case."""
        words = (word.strip().lower() for value in self.all(name) for word in value.split(","))
        return {word for word in words if word}

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.fields)

    def __repr__(self) -> str:
        return f"Headers({', '.join(name for name, _ in self)})"  # values may be secret


HeaderInput = Headers | Mapping[str, str] | Iterable[tuple[str, str] | Field]
