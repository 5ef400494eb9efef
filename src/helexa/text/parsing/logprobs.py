"""Log-probabilities on their way out with the text of their tokens."""

from __future__ import annotations

from collections import deque

from helexa.text.events import TokenLogprob


class HeldLogprobs:
    """Log-probabilities that wait for the first character of their token to be released.

    Positions count the characters decoded so far; ``settled`` is how far the text has come on its
    way out, so that the difference is what is held back.
    """

    def __init__(self) -> None:
        self._decoded = 0
        self._settled = 0
        self._waiting: deque[tuple[int, int, TokenLogprob]] = deque()  # start, end

    def note(self, logprob: TokenLogprob | None, length: int) -> None:
        """A token came that added ``length`` characters."""
        if logprob is not None:
            self._waiting.append((self._decoded, self._decoded + length, logprob))
        self._decoded += length

    def settle(self, length: int) -> None:
        """So many more characters were shown, or dropped."""
        self._settled += length

    def drop(self, length: int) -> None:
        """So many more characters were no content: forget the tokens that lie within them."""
        first, self._settled = self._settled, self._settled + length
        self._waiting = deque(
            (start, end, logprob)
            for start, end, logprob in self._waiting
            if start < first or start >= self._settled or end > self._settled
        )

    def release_all(self) -> None:
        """At the end, tokens without text of their own go with the last text."""
        self._settled = self._decoded + 1

    def take(self, held: int) -> tuple[TokenLogprob, ...]:
        """Those whose text begins before the last ``held`` settled characters."""
        taken = []
        while self._waiting and self._waiting[0][0] < self._settled - held:
            taken.append(self._waiting.popleft()[2])
        return tuple(taken)
