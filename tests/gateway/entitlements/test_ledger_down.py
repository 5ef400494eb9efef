"""A store that does not take anything for a while."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from helexa.gateway.entitlements.book import StoreFailed
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.ledger import Timing
from helexa.gateway.entitlements.sqlite import SqliteBook
from helexa.gateway.refusals import LedgerUnavailable
from tests.gateway.entitlements.stores import (
    ANN,
    QUICK,
    Clock,
    Store,
    account,
    opened,
    rows,
    standing,
    until_standing,
)

pytestmark = pytest.mark.anyio

BUDGET = Budget(1000)


async def test_g158_at_reserve(lasting: Store) -> None:
    async with opened(lasting.open_impatient) as ledger:
        with lasting.broken():
            began = time.monotonic()
            with pytest.raises(LedgerUnavailable) as down:
                await ledger.reserve(ANN, BUDGET, 10)
            with pytest.raises(LedgerUnavailable):
                await ledger.account("key")
            assert time.monotonic() - began < 5
        assert str(down.value) == "entitlement ledger temporarily unavailable"
        assert (down.value.status, down.value.retry_after_s) == (503, 5)
        await ledger.reserve(ANN, BUDGET, 10)
        assert await standing(ledger) == (10, 0)


async def test_g158_at_settle_then_back(lasting: Store) -> None:
    async with opened(lasting.open_impatient) as ledger:
        held = [await ledger.reserve(ANN, BUDGET, 20) for _ in range(10)]
        with lasting.broken():
            for one in held[:4]:
                ledger.settle(one, 15)
            for one in held[4:6]:
                ledger.release(one)
            with pytest.raises(LedgerUnavailable):
                await ledger.reserve(ANN, BUDGET, 10)
        await until_standing(ledger, (80, 60))


async def test_a_file_that_is_deleted_grants_nothing_a_second_time(tmp_path: Path) -> None:
    """And what ended meanwhile is charged if it is put back."""
    path, aside = tmp_path / "ledger.db", tmp_path / "aside.db"
    async with opened(partial(SqliteBook, path, look_s=0.0)) as ledger:
        held = await ledger.reserve(ANN, BUDGET, 600)
        path.rename(aside)
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve(ANN, BUDGET, 600)
        with pytest.raises(StoreFailed, match="deleted or replaced"):
            await ledger.tidy()
        ledger.settle(held, 500)
        assert not path.exists()
        aside.rename(path)
        await until_standing(ledger, (0, 500))


async def test_settlements_survive_one_failure_after_the_other(lasting: Store) -> None:
    async with opened(lasting.open_impatient) as ledger:
        spent = 0
        for turn in range(3):
            held = [await ledger.reserve(ANN, BUDGET, 20) for _ in range(5)]
            with lasting.broken():
                for one in held:
                    ledger.settle(one, turn + 1)
                    spent += turn + 1
                with pytest.raises(LedgerUnavailable):
                    await ledger.account("key")
            await until_standing(ledger, (0, spent))


async def test_what_is_owed_is_written_at_the_end(lasting: Store) -> None:
    slow = Timing(retry_s=60.0, flush_s=10.0)
    async with opened(lasting.open_impatient, timing=slow) as ledger:
        held = await ledger.reserve(ANN, BUDGET, 20)
        with lasting.broken():
            ledger.settle(held, 7)
            with pytest.raises(LedgerUnavailable):
                await ledger.account("key")
        assert await standing(ledger) == (20, 0)  # it is tried again in a minute
    assert (account(lasting).reserved, account(lasting).spent) == (0, 7)
    assert rows(lasting) == []


async def test_an_end_is_not_held_up_for_long(
    lasting: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(10):
        async with opened(lasting.open_impatient, timing=Timing(flush_s=0.5)) as ledger:
            held = await ledger.reserve(ANN, BUDGET, 20)
            broken = lasting.broken()
            broken.__enter__()
            ledger.settle(held, 7)
    broken.__exit__(None, None, None)
    assert "1 settlements could not be written and are lost" in caplog.text
    assert [row.amount for row in rows(lasting)] == [20]  # until somebody frees it


async def test_the_work_beside_goes_on(lasting: Store, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    async with opened(lasting.open_impatient, clock) as ledger, anyio.create_task_group() as tasks:
        await ledger.reserve(ANN, BUDGET, 20)
        before = rows(lasting)[0].expires_ms
        with lasting.broken():
            tasks.start_soon(ledger.keep)
            while "could not be tidied" not in caplog.text:  # noqa: ASYNC110  # a log has no event
                await anyio.sleep(0.01)
        clock.now += 100
        with anyio.fail_after(10):
            while rows(lasting)[0].expires_ms != before + 100_000:  # noqa: ASYNC110  # a thread writes it
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


async def test_who_waits_too_long_is_told_so(lasting: Store) -> None:
    impatient = replace(QUICK, answer_s=0.1)
    async with opened(lasting.open_book, timing=impatient) as ledger:
        with lasting.broken():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ledger.keep)
                with anyio.fail_after(4), pytest.raises(LedgerUnavailable):
                    await ledger.reserve(ANN, BUDGET, 10)
                tasks.cancel_scope.cancel()
        await until_standing(ledger, (0, 0))
        assert rows(lasting) == []
