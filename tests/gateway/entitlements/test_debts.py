"""What is owed to a store that fails, on a book whose failures are told beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from helexa.gateway.entitlements.book import CommitInDoubt, Outcome, StoreFailed
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.debts import CHUNK, MOST_DEBTS, Debts
from helexa.gateway.entitlements.memory import MemoryBook
from helexa.gateway.entitlements.posting import Bill, Reserve, Settle

Write = Callable[[object, Sequence[Bill]], None]


class Doubtful(MemoryBook):
    """Remembers what it is told of transactions."""

    def __init__(self, **outcomes: Outcome) -> None:
        super().__init__()
        self.outcomes = outcomes

    def outcome(self, mark: str) -> Outcome:
        return self.outcomes[mark]


def bill(number: int) -> Settle:
    return Settle(f"id-{number}", "key", 10, 5)


def writer(written: list[Bill], *failures: Exception) -> Write:
    left = list(failures)

    def write(book: object, bills: Sequence[Bill]) -> None:
        if left:
            raise left.pop(0)
        written.extend(bills)

    return write


def test_what_fails_is_owed_and_written_in_order() -> None:
    debts, written = Debts(5.0), list[Bill]()
    bills = [bill(i) for i in range(CHUNK + 10)]
    debts.add(bills, 100.0)
    assert (debts.wait_s(101.0), debts.wait_s(200.0)) == (4.0, 0.0)
    with pytest.raises(StoreFailed):
        debts.pay(MemoryBook(), writer(written, StoreFailed("locked")), 105.0)
    assert (len(debts), written, debts.wait_s(105.0)) == (len(bills), [], 5.0)
    debts.pay(MemoryBook(), writer(written), 110.0)
    assert (len(debts), written, debts.wait_s(110.0)) == (0, bills, None)


def test_ten_thousand_may_wait(caplog: pytest.LogCaptureFixture) -> None:
    debts = Debts(5.0)
    debts.add([bill(i) for i in range(MOST_DEBTS - 1)], 0.0)
    assert not caplog.records
    debts.add([bill(1), bill(2), bill(3)], 0.0)
    assert len(debts) == MOST_DEBTS
    assert "2 settlements are lost" in caplog.text


@pytest.mark.parametrize(
    ("outcome", "settled", "released"),
    [("aborted", True, False), ("committed", False, True), ("unknown", False, True)],
)
def test_a_commit_in_doubt(outcome: Outcome, settled: bool, released: bool) -> None:
    debts, written = Debts(5.0), list[Bill]()
    asked = Reserve("new", "acct", "key", 7, Budget())
    debts.doubt("mark", [bill(1)], [asked], 0.0)
    assert len(debts) == 1
    debts.pay(Doubtful(mark=outcome), writer(written), 5.0)
    assert (bill(1) in written) is settled
    assert (Settle("new", "key", 7) in written) is released
    assert len(debts) == 0


def test_a_transaction_that_still_runs_is_waited_for() -> None:
    debts, written = Debts(5.0), list[Bill]()
    debts.doubt("mark", [bill(1)], [], 0.0)
    book = Doubtful(mark="running")
    with pytest.raises(StoreFailed, match="mark has not ended"):
        debts.pay(book, writer(written), 5.0)
    book.outcomes["mark"] = "aborted"
    with pytest.raises(CommitInDoubt):
        debts.pay(book, writer(written, CommitInDoubt("lost", "again")), 10.0)
    assert (len(debts), written) == (1, [])
    book.outcomes["again"] = "committed"
    debts.pay(book, writer(written), 15.0)
    assert (len(debts), written) == (0, [])  # it was written the second time
