"""The short way to the end of a JSON text: an answer that runs out of tokens still closes.

A way is found by trying, on a copy of the parser, the token that closes most at each place. It is
short, not the shortest; where none is found the answer is cut in its middle, as without a grammar.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Protocol, Self

# First what ends a value: a comma ends a number, which could go on for ever; then short values.
_OUTSIDE: Final = b'}],1234567890n"tf-{[:.'
_INSIDE: Final = b'"'
_LOOKED_AT: Final = 64
_ATTEMPTS: Final = 3
_QUOTE, _ESCAPE = b'"\\'


class Steps(Protocol):
    """What is asked of a parser here; `deep_copy` gives one that goes its own way."""

    def compute_bitmask(self) -> bytes: ...
    def consume_token(self, token_id: int, /) -> bool: ...
    def is_accepting(self) -> bool: ...
    def is_error(self) -> bool: ...
    def deep_copy(self) -> Self: ...


class Place:
    """Whether a JSON text is inside a string, read byte by byte."""

    __slots__ = ("escaped", "quoted")

    def __init__(self, quoted: bool = False, escaped: bool = False) -> None:
        self.quoted = quoted
        self.escaped = escaped

    def read(self, text: bytes) -> None:
        """Go on after more text."""
        for byte in text:
            if self.escaped:
                self.escaped = False
            elif byte == _QUOTE:
                self.quoted = not self.quoted
            elif byte == _ESCAPE:
                self.escaped = self.quoted

    def copy(self) -> Place:
        """One that goes its own way."""
        return Place(self.quoted, self.escaped)


class Closer:
    """Finds the way to the end, for one vocabulary: ``tokens`` are the bytes of each id."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._tokens = tokens
        single = {text[0]: at for at, text in enumerate(tokens) if len(text) == 1}
        self._outside = [single[byte] for byte in _OUTSIDE if byte in single]
        self._inside = [single[byte] for byte in _INSIDE if byte in single]

    def way(self, steps: Steps, place: Place, limit: int) -> list[int] | None:
        """At most ``limit`` tokens that complete the text; None if they are not found.

        The first try takes long tokens inside strings. A pattern may need others: the next tries
        take any, the same ones each time.
        """
        for attempt in range(_ATTEMPTS):
            chance = random.Random(attempt) if attempt else None
            found = self._try(steps.deep_copy(), place.copy(), limit, chance)
            if found is not None:
                return found
        return None

    def _try(
        self, steps: Steps, place: Place, limit: int, chance: random.Random | None
    ) -> list[int] | None:
        way: list[int] = []
        while not steps.is_accepting():
            mask = steps.compute_bitmask()
            if len(way) >= limit or steps.is_error():
                return None
            token_id = self._choose(mask, place.quoted, chance)
            if token_id is None or not steps.consume_token(token_id):
                return None
            place.read(self._tokens[token_id])
            way.append(token_id)
        return way

    def _choose(self, mask: bytes, quoted: bool, chance: random.Random | None) -> int | None:
        for token_id in self._inside if quoted else self._outside:
            if mask[token_id >> 3] >> (token_id & 7) & 1:
                return token_id
        found = self._first(mask)
        if not found:
            return None
        return chance.choice(found) if chance else max(found, key=lambda at: len(self._tokens[at]))

    def _first(self, mask: bytes) -> list[int]:
        """The first few tokens of a mask, without those that escape if there are others."""
        bits = int.from_bytes(mask, "little")
        found: list[int] = []
        while bits and len(found) < _LOOKED_AT:
            lowest = bits & -bits
            bits ^= lowest
            token_id = lowest.bit_length() - 1
            if token_id < len(self._tokens):
                found.append(token_id)
        return [at for at in found if b"\\" not in self._tokens[at]] or found


class Budget:
    """When an answer must turn to its end: looked at rarely, and strictly once it must.

    Between two looks a way to the end may get longer by what one token begins, such as an object
    with required properties. ``reserve`` is kept for that; it grows with what was seen.
    """

    LAST_TOKENS: Final = 256
    LONGEST_WAY: Final = 200
    PATIENCE: Final = 16
    LEAST_RESERVE: Final = 8
    MOST_RESERVE: Final = 24

    def __init__(self, closer: Closer) -> None:
        self._closer = closer
        self._look_at = self.LAST_TOKENS
        self._reserve = self.LEAST_RESERVE
        self._length: int | None = None
        self._way: list[int] = []
        self.closing = False

    def due(self, remaining: int) -> bool:
        """Whether a way is to be looked for, with so many tokens left."""
        return not self.closing and remaining <= self._look_at

    def look(self, steps: Steps, place: Place, remaining: int) -> None:
        """Find the way to the end, and decide whether to take it now."""
        way = self._closer.way(steps, place, min(remaining, self.LONGEST_WAY))
        if way is None:
            self._look_at = remaining - self.PATIENCE  # beyond reach, or not found: maybe later
            return
        if self._length is None:
            self._reserve = min(self.MOST_RESERVE, max(self.LEAST_RESERVE, remaining // 4))
        else:
            self._reserve = max(self._reserve, 2 * (len(way) - self._length))
        self._length = len(way)
        slack = remaining - len(way) - self._reserve
        if slack <= 0:
            self.closing, self._way = True, way
        self._look_at = remaining - max(1, slack // 2)

    def next(self) -> int | None:
        """The next token of the way, once it is taken; None at its end."""
        return self._way[0] if self._way else None

    def took(self) -> None:
        """The next token of the way was taken."""
        del self._way[:1]
