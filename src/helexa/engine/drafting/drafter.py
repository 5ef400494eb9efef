"""Who guesses what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence as Items

    from torch import Tensor

    from helexa.engine.sequence import Sequence


class Drafter(Protocol):
    """Guesses the next tokens of sequences; `lookup.LookupDrafter` is one.

    A guess costs time and never changes what comes out, so a drafter may be wrong, and may keep
    whatever it likes of a sequence until it is told to drop it. Where nothing is drafted it is
    asked for one token all the same, to see how often it is right; not in every step, where none of
    its drafts has paid for a while and steps are short.
    """

    def propose(self, seq: Sequence, count: int) -> Items[int]:
        """Up to ``count`` tokens that may follow all of the sequence's; none if it has no idea."""
        ...

    def drop(self, seq: Sequence) -> None:
        """The sequence is over; one that was never proposed for may be dropped, too."""
        ...


@runtime_checkable
class HiddenDrafter(Drafter, Protocol):
    """One that guesses from hidden states, as a head of the model does: it is handed them."""

    def take_hidden(self, seq: Sequence, hidden: Tensor) -> None:
        """What the last n tokens of a sequence were drawn from: ``hidden`` [n, hidden].

        These are the outputs of the model's last norm at the token before each, in its dtype and on
        its device. A sequence that may have drafts has a row for each token that is drawn for it,
        handed on in order and before a proposal of what follows; none for the tokens of its prompt
        but the last. The next step may overwrite them: what is to be kept is copied.
        """
        ...
