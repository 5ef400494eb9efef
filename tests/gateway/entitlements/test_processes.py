"""Gateways that share a store, each a process; and some that are killed."""

from __future__ import annotations

import random

import anyio
import pytest

from tests.gateway.entitlements.spender import spending
from tests.gateway.entitlements.stores import (
    Clock,
    PostgresStore,
    SqliteStore,
    account,
    opened,
    reading,
    rows,
    standing,
)

pytestmark = pytest.mark.anyio

CAP = 400


@pytest.fixture
def anyio_backend() -> str:
    """The processes use it; what is looked at here does not depend on it."""
    return "asyncio"


def where(store: SqliteStore | PostgresStore) -> str:
    return str(store.path) if isinstance(store, SqliteStore) else store.url


async def test_g151_two_gateways_one_cap(lasting: SqliteStore | PostgresStore) -> None:
    with spending(where(lasting), 500, "grab", 2) as processes:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        granted = [int(process.communicate()[0]) for process in processes]
    assert sum(granted) == 5
    assert account(lasting).reserved == 500
    assert [row.amount for row in rows(lasting)] == [100] * 5


async def test_whoever_was_told_that_tokens_are_reserved_has_them(
    lasting: SqliteStore | PostgresStore,
) -> None:
    with spending(where(lasting), 10**9, "hold") as (process,):
        assert process.stdout is not None
        told = {process.stdout.readline() for _ in range(200)}
        process.kill()
        told |= set(process.stdout)
    kept = {f"{row.id}\n".encode() for row in rows(lasting)}
    assert len(told) >= 200
    assert told <= kept
    assert account(lasting).reserved == len(kept)


async def test_g157_gateways_that_are_killed(lasting: SqliteStore | PostgresStore) -> None:
    """Whenever they die, the cap holds, and what is reserved is what reservations say."""
    dice = random.Random(157)
    for _ in range(3):
        with spending(where(lasting), CAP, "churn", 2) as processes:
            first = processes[0].stdout
            assert first is not None
            first.readline()  # it has been refused: the budget is used to the full
            await anyio.sleep(dice.random() / 10)  # any moment will do
            for process in processes:
                process.kill()
                process.wait()
                check(lasting)
    held = rows(lasting)
    assert held
    clock = Clock()
    clock.now = max(row.expires_ms for row in held) / 1000 - 1
    async with opened(lasting.open_book, clock) as ledger:
        spent = account(lasting).spent
        clock.now += 1
        await ledger.tidy()
        assert await standing(ledger) == (0, spent)
    assert rows(lasting) == []


def check(store: SqliteStore | PostgresStore) -> None:
    """Both at one moment, while another gateway may go on."""
    with reading(store) as book:
        found = book.accounts(["key"])["key"]
        reserved = sum(row.amount for row in book.expired(2**62))
    assert found.reserved == reserved
    assert 0 <= found.spent + reserved <= CAP
