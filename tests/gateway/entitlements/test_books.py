"""Every store does what dictionaries do, also when two connections take turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helexa.gateway.entitlements.book import Book, Held, Usage
from helexa.gateway.entitlements.budget import Account, Budget
from helexa.gateway.entitlements.memory import MemoryBook
from helexa.gateway.entitlements.posting import (
    Bill,
    Lease,
    Reserve,
    Serve,
    Settle,
    post,
    sweep,
)
from helexa.gateway.entitlements.sqlite import SqliteBook
from tests.gateway.entitlements.postgres_server import PostgresServer
from tests.gateway.entitlements.stores import PostgresStore, Store, reading

LEASE = Lease("here", 1000)
BUDGETS = {"a": Budget(300), "b": Budget(250, 2), "c": Budget(), "d": Budget(0)}
TODAY = Usage("acct", "key", "2026-04-24")

# A batch: which connection writes it, how much later it is, whether it is swept first,
# (key, tokens) to reserve, (which of the open ones, tokens used, counted?) to settle.
batches = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([0, 0, 0, 500, 2500]),
        st.booleans(),
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 120)), max_size=20),
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 150), st.booleans()), max_size=12),
    ),
    max_size=8,
)
Batch = tuple[bool, int, bool, list[tuple[str, int]], list[tuple[int, int, bool]]]


def play(books: tuple[Book, Book], script: Sequence[Batch]) -> list[object]:
    """What a script comes to: every answer, and what is in the book after every batch."""
    told: list[object] = []
    held: list[Reserve] = []
    numbers = count()
    now_ms = 1_000_000
    for second, later_ms, swept, wants, ends in script:
        book = books[second]
        now_ms += later_ms
        if swept:
            told.append(sweep(book, now_ms))
        reserves = [
            Reserve(f"id-{next(numbers):04}", "acct", key, tokens, BUDGETS[key])
            for key, tokens in wants
        ]
        bills: list[Bill] = [Serve(TODAY, len(wants))]
        for which, used, counted in ends:
            if held:
                order = held.pop(which % len(held))
                usage = TODAY if counted else None
                bills.append(Settle(order.id, order.key_id, order.tokens, used, usage))
        answers = post(book, bills, reserves, now_ms, LEASE)
        held += [order for order in reserves if answers[order.id] is None]
        told += [answers, contents(book)]
    return told


def contents(book: Book) -> tuple[dict[str, Account], list[Held], dict[Usage, int]]:
    with book.transaction():
        accounts = {key: book.accounts([key]).get(key, Account()) for key in BUDGETS}
        rows = sorted(book.expired(2**62))
        served = {usage: tokens for usage, tokens in book.served().items() if tokens}
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row.key_id] += row.amount
    for key, account in accounts.items():
        assert account.reserved == sums[key]
    return accounts, rows, served


def expected(script: Sequence[Batch]) -> list[object]:
    book = MemoryBook()
    return play((book, book), script)


@given(script=batches)
@settings(max_examples=60, deadline=None)
def test_two_connections_to_a_file(script: Sequence[Batch]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        with closing(SqliteBook(path)) as first, closing(SqliteBook(path)) as second:
            assert play((first, second), script) == expected(script)


@given(script=batches)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_two_connections_to_a_server(postgres: PostgresServer, script: Sequence[Batch]) -> None:
    store = PostgresStore(postgres.database())
    with closing(store.open_book()) as first, closing(store.open_book()) as second:
        assert play((first, second), script) == expected(script)


@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 300])
def test_any_number_of_rows_at_once(store: Store, rows: int) -> None:
    keys = [f"key-{i:03}" for i in range(rows)]
    reserves = [Reserve(f"id-{key}", "acct", key, 10, Budget(100)) for key in keys]
    settles = [
        Settle(order.id, order.key_id, 10, 4, Usage("acct", order.key_id, "2026-04-24"))
        for order in reserves
    ]
    with closing(store.open_book()) as book:
        assert set(post(book, [], reserves, 0, LEASE).values()) == {None}
        with book.transaction():
            book.extend([order.id for order in reserves[1:]], 5000)
            assert sorted(book.accounts(keys).items()) == [(key, Account(0, 10)) for key in keys]
        assert sweep(book, 1000) == 1
        post(book, settles, [], 0, LEASE)
        with book.transaction():
            assert book.accounts(keys) == dict.fromkeys(keys, Account(4, 0))
            assert book.expired(2**62) == []
            assert list(book.served().values()) == [4] * rows


def test_what_fails_in_the_middle_is_undone(lasting: Store) -> None:
    with closing(lasting.open_book()) as book:
        post(book, [], [Reserve("one", "acct", "key", 10, Budget(100))], 0, LEASE)
        with pytest.raises(ZeroDivisionError), book.transaction():
            book.enter({key: Account(50) for key in book.accounts(["key"])})
            book.free(["one"])
            raise ZeroDivisionError
        with book.transaction():
            assert book.accounts(["key"]) == {"key": Account(0, 10)}
            assert [row.id for row in book.expired(1000)] == ["one"]
    with reading(lasting) as book:
        assert book.accounts(["key"]) == {"key": Account(0, 10)}
