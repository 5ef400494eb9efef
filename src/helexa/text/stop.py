"""Strings looked for in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scan:
    """What a piece of text settled: text before, then the string found (if any), then the rest."""

    before: str
    found: str | None = None
    rest: str = ""


class Scanner:
    """Finds whichever of some strings is complete first, the longest of those that end together.

    Text that could still become one of them is held back, and no more than that; where pieces
    begin and end makes no difference. Source: Knuth, Morris, Pratt, doi:10.1137/0206024.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [(pattern, _borders(pattern)) for pattern in patterns if pattern]
        self._initials = frozenset(pattern[0] for pattern, _ in self._patterns)
        self._matched = [0] * len(self._patterns)
        self._held = ""

    def push(self, text: str) -> Scan:
        """Take a piece. After a find, `Scan.rest` has not been looked at: push it to go on."""
        if not self._held and self._initials.isdisjoint(text):
            return Scan(text)
        buffer = self._held + text
        seen = len(self._held)
        for at, char in enumerate(text):
            found = self._advance(char)
            if found:
                self._reset()
                return Scan(buffer[: seen + at + 1 - len(found)], found, text[at + 1 :])
        settled = len(buffer) - max(self._matched)
        self._held = buffer[settled:]
        return Scan(buffer[:settled])

    def flush(self) -> str:
        """Give the text held back; what follows is a new text."""
        held = self._held
        self._reset()
        return held

    def _advance(self, char: str) -> str:
        longest = ""
        for i, (pattern, borders) in enumerate(self._patterns):
            matched = self._matched[i]
            while matched and pattern[matched] != char:
                matched = borders[matched - 1]
            matched += pattern[matched] == char
            if matched == len(pattern):
                longest = max(longest, pattern, key=len)
                matched = borders[-1]
            self._matched[i] = matched
        return longest

    def _reset(self) -> None:
        self._matched = [0] * len(self._patterns)
        self._held = ""


class StopMatcher:
    """Ends a text at the first stop string; neither that nor anything after it is given.

    ``held`` counts the characters taken but not given: what may yet become a stop string and,
    once stopped, everything from the match on. ``found`` is the string that ended it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._scanner = Scanner(stops)
        self.held = 0
        self.found: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether one of them was there."""
        return self.found is not None

    def push(self, text: str, *, armed: bool = True) -> tuple[str, bool]:
        """Take a piece, give what is settled and whether it is the end; unarmed, nothing stops."""
        if self.stopped:
            self.held += len(text)
            return "", True
        if not armed:
            return self.flush() + text, False
        scan = self._scanner.push(text)
        self.held += len(text) - len(scan.before)
        self.found = scan.found
        return scan.before, self.stopped

    def flush(self) -> str:
        """Give the text held back, unless stopped; what follows is a new text."""
        if self.stopped:
            return ""
        self.held = 0
        return self._scanner.flush()


def _borders(pattern: str) -> list[int]:
    """For each prefix of a string, the length of its longest proper border."""
    borders = [0] * len(pattern)
    length = 0
    for at in range(1, len(pattern)):
        while length and pattern[at] != pattern[length]:
            length = borders[length - 1]
        length += pattern[at] == pattern[length]
        borders[at] = length
    return borders
