"""Token ids to text, as they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helexa.text.tokenizer import Tokenizer


class Detokenizer:
    """Decodes one growing sequence of ids.

    Everything `push` gave, followed by `flush`, is what decoding all ids at once gives. No delta
    ends inside a character. A token costs the same however long the text is.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._piece = tokenizer.piece
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._decoder = tokenizer.new_decoder()

    def push(self, ids: Iterable[int]) -> str:
        """Take the next ids, give the text they settle; it may be empty."""
        return "".join(map(self.push_one, ids))

    def push_one(self, id: int) -> str:
        """Take one id; the same as ``push([id])``."""
        if id in self._skipped:
            return ""
        piece = self._piece(id)
        return "" if piece is None else self._decoder.push(piece)

    def flush(self) -> str:
        """Give what was held back, with U+FFFD for an incomplete character; more ids may follow."""
        return self._decoder.flush()
