"""Stores of a ledger, ledgers over them, and a clock to turn."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import psycopg

from helexa.gateway.entitlements.book import Book, Held
from helexa.gateway.entitlements.budget import Account, Budget
from helexa.gateway.entitlements.ledger import Ledger, Timing
from helexa.gateway.entitlements.memory import MemoryBook
from helexa.gateway.entitlements.postgres import PostgresBook
from helexa.gateway.entitlements.provider import Principal
from helexa.gateway.entitlements.sqlite import SqliteBook
from helexa.gateway.refusals import LedgerUnavailable

NOON = 1_777_000_000.0  # of some day: 2026-04-24, 03:06:40
IMPATIENT_S = 0.2
QUICK = Timing(tick_s=0.02, live_s=900.0, retry_s=0.05, flush_s=2.0)
ANN = Principal("acct", "key")
UNCAPPED = Budget()


class Clock:
    """Wall time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Store(Protocol):
    """One ledger's store. ``open_book`` waits long for a lock, ``open_impatient`` does not."""

    @property
    def open_book(self) -> Callable[[], Book]: ...

    @property
    def open_impatient(self) -> Callable[[], Book]: ...

    def broken(self) -> AbstractContextManager[None]:
        """Nobody can write to it as long as this lasts."""
        ...


@dataclass(frozen=True)
class MemoryStore:
    """Nothing breaks it, and nobody else sees it."""

    open_book: Callable[[], Book] = MemoryBook
    open_impatient: Callable[[], Book] = MemoryBook

    @contextmanager
    def broken(self) -> Iterator[None]:
        yield


MEMORY = MemoryStore()


@dataclass(frozen=True)
class SqliteStore:
    """A file."""

    path: Path

    def open_book(self) -> Book:
        return SqliteBook(self.path)

    def open_impatient(self) -> Book:
        return SqliteBook(self.path, IMPATIENT_S)

    @contextmanager
    def broken(self) -> Iterator[None]:
        other = sqlite3.connect(self.path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
        finally:
            other.close()


@dataclass(frozen=True)
class PostgresStore:
    """A schema of a server."""

    url: str

    def open_book(self) -> Book:
        return PostgresBook(self.url)

    def open_impatient(self) -> Book:
        return PostgresBook(self.url, IMPATIENT_S)

    @contextmanager
    def broken(self) -> Iterator[None]:
        with psycopg.connect(self.url) as other:
            other.execute("LOCK helexa_ledger, helexa_reservations, helexa_served_usage")
            yield


@asynccontextmanager
async def opened(
    open_book: Callable[[], Book], clock: Clock | None = None, timing: Timing = QUICK
) -> AsyncIterator[Ledger]:
    """A ledger that is flushed and closed at the end."""
    ledger = Ledger(open_book, clock=clock or Clock(), timing=timing)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.flush()
        await ledger.aclose()


async def standing(ledger: Ledger, principal: Principal = ANN) -> tuple[int, int]:
    """What is reserved and what is spent."""
    account = await ledger.account(principal.key_id)
    return account.reserved, account.spent


async def until_standing(ledger: Ledger, wanted: tuple[int, int]) -> None:
    """Return as soon as so much is reserved and spent; fail if it never is."""
    found = None
    with anyio.fail_after(10):
        while found != wanted:
            await anyio.sleep(0.005)
            with suppress(LedgerUnavailable):
                found = await standing(ledger)


@contextmanager
def reading(store: Store) -> Iterator[Book]:
    """A look at a store past every ledger."""
    book = store.open_book()
    try:
        with book.transaction():
            yield book
    finally:
        book.close()


def rows(store: Store) -> list[Held]:
    """All reservations."""
    with reading(store) as book:
        return book.expired(2**62)


def account(store: Store, key_id: str = "key") -> Account:
    """One account."""
    with reading(store) as book:
        return book.accounts([key_id]).get(key_id, Account())
