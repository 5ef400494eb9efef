"""Drafts out of the text itself: what followed the last time that it stood like this.

Source: prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding; copying past
the end of what is known is that of Ziv and Lempel, IEEE Trans. Inf. Theory 23 (1977).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from helexa.engine.sequence import Sequence

LONGEST: Final = 5
SHORTEST: Final = 2
CANDIDATES: Final = 32
"""How many places are compared: the latest ones, which bounds a search in any text."""
_ID_BITS: Final = 32


class LookupIndex:
    """Where in a growing list of tokens its last ones stood before.

    Places with the same two tokens in front of them form a chain, the latest first. A place is the
    index of the token that followed. 4 bytes a token, and an entry for each different pair.
    """

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}  # pair of tokens → the last place behind it
        self._before = array("i", [0, 0])  # place → the one before it behind the same pair, or 0

    def propose(self, tokens: Items[int], count: int) -> list[int]:
        """Up to ``count`` tokens that may follow ``tokens``, of which only the end is ever new.

        They are copied from behind the longest match of the last 5 … 2 tokens among the latest
        places, the latest of equally long ones. A copy that reaches the end goes on with itself.
        """
        self._extend(tokens)
        place = self._best(tokens)
        if not place or count < 1:
            return []
        period = len(tokens) - place
        known = list(tokens[place : place + count])
        return [known[i % period] for i in range(count)]

    def _extend(self, tokens: Items[int]) -> None:
        """Learn of the places that something has followed meanwhile."""
        latest, before = self._latest, self._before
        start = len(before)
        for place, pair in enumerate(_pairs(tokens[start - 2 : -1]), start):
            before.append(latest.get(pair, 0))
            latest[pair] = place

    def _best(self, tokens: Items[int]) -> int:
        """The place behind the longest match, 0 if there is none."""
        end = len(tokens)
        if end <= SHORTEST:
            return 0
        place = self._latest.get(_pair(tokens[end - 2], tokens[end - 1]), 0)
        best, best_length = 0, 0
        for _ in range(CANDIDATES):
            if not place or best_length == LONGEST:
                break
            length = SHORTEST
            most = min(LONGEST, place)
            while length < most and tokens[place - length - 1] == tokens[end - length - 1]:
                length += 1
            if length > best_length:
                best, best_length = place, length
            place = self._before[place]
        return best


def _pair(first: int, second: int) -> int:
    return first << _ID_BITS | second


def _pairs(tokens: Items[int]) -> map[int]:
    return map(_pair, tokens, tokens[1:])


class LookupDrafter:
    """Drafts from each sequence's own prompt and answer, so it helps where those repeat."""

    def __init__(self) -> None:
        self._indices: dict[int, LookupIndex] = {}

    def propose(self, seq: Sequence, count: int) -> list[int]:
        """As `Drafter` says; microseconds, once the prompt has been read."""
        index = self._indices.get(seq.id)
        if index is None:
            index = self._indices[seq.id] = LookupIndex()
        return index.propose(seq.tokens, count)

    def drop(self, seq: Sequence) -> None:
        self._indices.pop(seq.id, None)
