"""The tokens that may come next in one constrained answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from helexa.errors import UnsupportedGrammar
from helexa.text.grammar.closing import Budget, Closer, Place

Stage = Literal["reasoning", "start", "gap", "answer"]


class Matcher(Protocol):
    """What is asked of the library's parser; it turns to an error state instead of raising."""

    def compute_bitmask(self) -> bytes: ...
    def consume_token(self, token_id: int, /) -> bool: ...
    def is_accepting(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...
    def deep_copy(self) -> Self: ...


@dataclass(frozen=True, slots=True)
class Alphabet:
    """What a mask needs to know of a vocabulary.

    ``tokens`` are the bytes of each id; ``marks`` are the added tokens, which stand for more than
    their text; ``blank`` those that are line breaks alone; ``banned`` may not come in reasoning,
    because they begin something else; ``mask_bytes`` is the length of a mask.
    """

    tokens: Sequence[bytes]
    mask_bytes: int
    marks: frozenset[int]
    blank: frozenset[int]
    banned: frozenset[int]
    reasoning: tuple[int, int] | None  # its opening and closing token
    closer: Closer


class ConstrainedAnswer:
    """A `TokenMask`: reasoning is free until it closes, then the grammar holds.

    In the ``start`` stage the answer may begin or reasoning may; in the ``gap`` just after
    reasoning one token of line breaks may come first. End tokens may come when the grammar is
    complete; when ``max_tokens`` only just suffice to complete it, nothing else may. ``fresh``
    makes a matcher at the beginning of the grammar that shares nothing with others; it is asked
    for once, if the shared one has used up the memory it may take.
    """

    def __init__(
        self,
        matcher: Matcher,
        fresh: Callable[[], Matcher],
        alphabet: Alphabet,
        ends: frozenset[int],
        stage: Stage,
        *,
        max_tokens: int,
    ) -> None:
        self._matcher = matcher
        self._fresh: Callable[[], Matcher] | None = fresh
        self._alphabet = alphabet
        self._ends = ends
        self._stage: Stage = stage
        self._consumed: list[int] = []
        self._thinking: bytes | None = None
        self._place = Place()
        self._remaining = max_tokens
        self._budget = Budget(alphabet.closer)

    @property
    def is_terminated(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        closed = self._budget.closing and self._budget.next() is None
        return self._stage == "answer" and (closed or self._matcher.is_stopped())

    @property
    def is_cut(self) -> bool:
        """Whether it was completed only because its tokens ran out."""
        return self._budget.closing

    def fill(self) -> bytes:
        """The tokens that may come next, one bit each; UnsupportedGrammar if finding them fails."""
        if self._stage == "reasoning":
            return self._free()
        self._look_ahead()
        forced = self._budget.next()
        if forced is not None:
            return with_bits(b"\0" * self._alphabet.mask_bytes, [forced], on=True)
        return self._allowed()

    def _look_ahead(self) -> None:
        """Turn to the end in time: done at the same tokens whether they are drawn or read again."""
        if self._stage != "reasoning" and self._budget.due(self._remaining):
            self._budget.look(self._matcher, self._place, self._remaining)

    def _allowed(self) -> bytes:
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            self._renew()
            mask = self._matcher.compute_bitmask()
            if self._matcher.is_error():
                raise self._failure()
        extra: set[int] = set()
        if self._matcher.is_accepting():
            extra |= self._ends
        if self._stage == "start" and self._alphabet.reasoning is not None:
            extra.add(self._alphabet.reasoning[0])
        if self._stage == "gap":
            extra |= self._alphabet.blank
        return with_bits(mask[: self._alphabet.mask_bytes], extra, on=True)

    def accept(self, token_id: int) -> None:
        """Go on after a token; UnsupportedGrammar if it does not fit."""
        self._look_ahead()
        self._remaining -= 1
        opening, closing = self._alphabet.reasoning or (None, None)
        if self._stage == "reasoning":
            self._stage = "gap" if token_id == closing else "reasoning"
        elif self._stage == "start" and token_id == opening:
            self._stage = "reasoning"
        elif self._stage == "gap" and token_id in self._alphabet.blank:
            self._stage = "answer"
        else:
            self._stage = "answer"
            self._consume(token_id)

    def _consume(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            self._renew()
            if not self._matcher.consume_token(token_id):
                raise self._failure()
        self._consumed.append(token_id)
        self._place.read(self._alphabet.tokens[token_id])
        if token_id == self._budget.next():
            self._budget.took()

    def _free(self) -> bytes:
        """Everything but the end and what would begin something else."""
        if self._thinking is None:
            banned = self._alphabet.banned | (self._ends & self._alphabet.marks)
            everything = b"\xff" * self._alphabet.mask_bytes
            self._thinking = with_bits(everything, banned, on=False)
        return self._thinking

    def _renew(self) -> None:
        """Read the answer so far with a matcher of its own, once."""
        if self._fresh is None:
            raise self._failure()
        matcher, self._fresh = self._fresh(), None
        for token_id in self._consumed:
            if not matcher.consume_token(token_id):
                raise self._failure()
        self._matcher = matcher

    def _failure(self) -> UnsupportedGrammar:
        reason = self._matcher.get_error().partition("\n")[0]
        return UnsupportedGrammar(
            f"the grammar cannot go on after {len(self._consumed)} tokens: {reason:.200}",
            hint="simplify the schema; continue an answer only with the grammar it was begun with",
        )


def with_bits(mask: bytes, ids: Iterable[int], *, on: bool) -> bytes:
    """A copy of a mask with the bits of some tokens set or cleared."""
    bits = bytearray(mask)
    for token_id in ids:
        if token_id >> 3 < len(bits):
            if on:
                bits[token_id >> 3] |= 1 << (token_id & 7)
            else:
                bits[token_id >> 3] &= ~(1 << (token_id & 7))
    return bytes(bits)
