"""What is owed to a store that did not take it: kept, and tried again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from helexa.gateway.entitlements.book import Book, CommitInDoubt, StoreFailed
from helexa.gateway.entitlements.posting import Bill, Reserve, Settle

MOST_DEBTS = 10_000
CHUNK = 512

log = logging.getLogger(__name__)

Write = Callable[[Book, Sequence[Bill]], object]


class Debts:
    """Bills that a store did not take, in the order in which they were made.

    Each is written exactly once: where the store was lost during a commit, it is asked what became
    of that before anything of it is written again.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._bills: deque[Bill] = deque()
        self._doubts: deque[_Doubt] = deque()
        self._due_s = 0.0

    def __len__(self) -> int:
        return len(self._bills) + sum(len(doubt.bills) for doubt in self._doubts)

    def wait_s(self, now_s: float) -> float | None:
        """How long nothing is to be done; None if nothing is owed."""
        if not self._bills and not self._doubts:
            return None
        return max(0.0, self._due_s - now_s)

    def add(self, bills: Sequence[Bill], now_s: float) -> None:
        """Owe these bills."""
        room = MOST_DEBTS - len(self)
        self._bills.extend(bills[:room])
        self._due_s = now_s + self._retry_s
        if lost := bills[room:]:
            log.error("%d settlements are lost: %d wait already", len(lost), MOST_DEBTS)

    def doubt(
        self, mark: str, bills: Sequence[Bill], reserves: Sequence[Reserve], now_s: float
    ) -> None:
        """Owe either these bills, or the undoing of reservations that nobody knows of."""
        self._doubts.append(_Doubt(mark, tuple(bills), tuple(reserves)))
        self._due_s = now_s + self._retry_s

    def pay(self, book: Book, write: Write, now_s: float) -> None:
        """Write all that is owed. Raises StoreFailed, after which the rest is still owed."""
        self._due_s = now_s + self._retry_s
        while self._doubts:
            self._resolve(book, self._doubts[0])
            self._doubts.popleft()
        while self._bills:
            chunk = list(islice(self._bills, CHUNK))
            try:
                write(book, chunk)
            except CommitInDoubt as error:
                self._doubts.append(_Doubt(error.mark, tuple(chunk), ()))
                self._forget(chunk)
                raise
            self._forget(chunk)

    def _forget(self, chunk: Sequence[Bill]) -> None:
        for _ in chunk:
            self._bills.popleft()

    def _resolve(self, book: Book, doubt: _Doubt) -> None:
        outcome = book.outcome(doubt.mark)
        if outcome == "running":
            raise StoreFailed(f"transaction {doubt.mark} has not ended")
        if outcome == "aborted":
            self._bills.extend(doubt.bills)
            return
        if outcome == "unknown":  # it was ages ago: nobody is to be charged twice
            log.error("nobody knows whether %d settlements were written", len(doubt.bills))
        # Who asked for them was told that the ledger is not available.
        self._bills.extend(Settle(order.id, order.key_id, order.tokens) for order in doubt.reserves)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A transaction whose commit nobody has confirmed."""

    mark: str
    bills: tuple[Bill, ...]
    reserves: tuple[Reserve, ...]
