"""Who guesses what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from helexa.engine.sequence import Sequence


class Drafter(Protocol):
    """Guesses the next tokens of sequences; `lookup.LookupDrafter` is one.

    A guess costs time and never changes what comes out, so a drafter may be wrong, and may keep
    whatever it likes of a sequence until it is told to drop it. Where nothing is drafted it is
    asked for one token all the same, to see how often it is right.
    """

    def propose(self, seq: Sequence, count: int) -> Items[int]:
        """Up to ``count`` tokens that may follow all of the sequence's; none if it has no idea."""
        ...

    def drop(self, seq: Sequence) -> None:
        """The sequence is over; one that was never proposed for may be dropped, too."""
        ...
