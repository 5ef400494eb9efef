"""What many requests want of the ledger at once, decided and written in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from helexa.gateway.entitlements.book import Book, Held, Usage
from helexa.gateway.entitlements.budget import Account, Budget, Refused, charge, reserve

UNTOUCHED = Account()


class Reserve(NamedTuple):
    """Set tokens aside under this id."""

    id: str
    account_id: str
    key_id: str
    tokens: int
    budget: Budget


class Settle(NamedTuple):
    """End a reservation of so many tokens: charge ``actual``, none to release it.

    ``usage`` is where what was served is counted.
    """

    id: str
    key_id: str
    reserved: int
    actual: int = 0
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Serve:
    """Count tokens that were served on somebody else's budget."""

    usage: Usage
    tokens: int


Bill = Settle | Serve
"""What must be written some time, as against a reservation, which is made now or not at all."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Under whose name, and how long, reservations are held unless they are extended."""

    gateway: str
    live_ms: int


Answers = dict[str, Refused | None]
"""What became of each reservation, by its id."""


def post(
    book: Book, bills: Sequence[Bill], reserves: Sequence[Reserve], now_ms: int, lease: Lease
) -> Answers:
    """Write them all. Raises StoreFailed, and then nothing is written.

    Bills go first, since they only free. A refusal is an answer like any other and undoes nothing.
    Settling what is not held any more charges without freeing.
    """
    settles = [bill for bill in bills if isinstance(bill, Settle)]
    keys = {order.key_id for order in reserves}
    keys.update(order.key_id for order in settles)
    with book.transaction():
        before = book.accounts(sorted(keys))
        accounts = before.copy()
        if settles:
            _settle(book, settles, accounts)
        answers: Answers = {}
        held = []
        expires_ms = now_ms + lease.live_ms
        for order in reserves:
            id, key = order.id, order.key_id
            account = accounts.get(key, UNTOUCHED)
            accounts[key], answers[id] = reserve(account, order.budget, order.tokens, now_ms)
            if answers[id] is None:
                name = order.account_id
                held.append(Held(id, name, key, order.tokens, lease.gateway, expires_ms))
        if held:
            book.hold(held)
        if changed := {key: new for key, new in accounts.items() if before.get(key) is not new}:
            book.enter(changed)
        if bills:
            _serve(book, bills)
    return answers


def sweep(book: Book, now_ms: int) -> int:
    """Free reservations that nobody has extended in time; how many. Raises StoreFailed."""
    with book.transaction():
        expired = book.expired(now_ms)
        if not expired:
            return 0
        accounts = book.accounts(sorted({row.key_id for row in expired}))
        gone = book.free([row.id for row in expired], now_ms)
        for row in expired:
            if row.id in gone:
                account = accounts.get(row.key_id, UNTOUCHED)
                accounts[row.key_id] = charge(account, reserved=row.amount, actual=0, held=True)
        book.enter(accounts)
    return len(gone)


def _settle(book: Book, settles: Sequence[Settle], accounts: dict[str, Account]) -> None:
    held = book.free([order.id for order in settles])
    for order in settles:
        accounts[order.key_id] = charge(
            accounts.get(order.key_id, UNTOUCHED),
            reserved=order.reserved,
            actual=order.actual,
            held=order.id in held,
        )


def _serve(book: Book, bills: Sequence[Bill]) -> None:
    served: dict[Usage, int] = {}
    for bill in bills:
        tokens = bill.tokens if isinstance(bill, Serve) else bill.actual
        if tokens and bill.usage is not None:
            served[bill.usage] = served.get(bill.usage, 0) + tokens
    if served:
        book.serve(served)
