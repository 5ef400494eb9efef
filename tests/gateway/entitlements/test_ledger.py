"""A ledger, over each kind of store, on both event loops."""

from __future__ import annotations

import anyio
import pytest

from helexa.gateway.entitlements.book import Usage
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.provider import Principal, Reservation
from helexa.refusals import InsufficientQuota, RateLimited
from tests.gateway.entitlements.stores import (
    ANN,
    UNCAPPED,
    Clock,
    Store,
    opened,
    standing,
    until_standing,
)

pytestmark = pytest.mark.anyio

THOUSAND = Budget(1000)


async def test_g152_round_trip(store: Store) -> None:
    async with opened(store.open_book) as ledger:
        first = await ledger.reserve(ANN, THOUSAND, 400)
        assert (first.principal, first.reserved) == (ANN, 400)
        assert await standing(ledger) == (400, 0)
        ledger.settle(first, 250)
        assert await standing(ledger) == (0, 250)
        ledger.release(await ledger.reserve(ANN, THOUSAND, 100))
        assert await standing(ledger) == (0, 250)


async def test_g153_refusals(store: Store) -> None:
    hourly = Budget(500, 3600)
    async with opened(store.open_book) as ledger:
        await ledger.reserve(ANN, THOUSAND, 900)
        with pytest.raises(InsufficientQuota) as broke:
            await ledger.reserve(ANN, THOUSAND, 200)
        assert str(broke.value) == "hard balance exhausted (200 requested, 100 available)"
        assert broke.value.retry_after_s is None

        bob = Principal("acct", "rolling")
        await ledger.reserve(bob, hourly, 500)
        with pytest.raises(RateLimited) as limited:
            await ledger.reserve(bob, hourly, 1)
        assert str(limited.value) == (
            "rolling-window budget exhausted (1 requested, 0 available); resets in 3600s"
        )
        assert limited.value.retry_after_s == 3600

        eve = Principal("acct", "uncapped")
        ledger.settle(await ledger.reserve(eve, UNCAPPED, 10_000_000), 10_000_000)
        assert await standing(ledger, eve) == (0, 10_000_000)


async def test_g151_concurrent(store: Store) -> None:
    async with opened(store.open_book) as ledger:
        granted = await reserve_at_once(ledger, Budget(500), 20, 100)
        assert granted == 5
        assert await standing(ledger) == (500, 0)


async def test_g155_reset(store: Store) -> None:
    clock, window = Clock(), Budget(100, 2)
    async with opened(store.open_book, clock) as ledger:
        held = await ledger.reserve(ANN, window, 30)
        ledger.settle(await ledger.reserve(ANN, window, 70), 70)
        clock.now += 1.999
        with pytest.raises(RateLimited, match=r"\(1 requested, 0 available\); resets in 1s"):
            await ledger.reserve(ANN, window, 1)
        clock.now += 0.001
        await ledger.reserve(ANN, window, 70)
        assert await standing(ledger) == (100, 0)
        ledger.settle(held, 20)
        assert await standing(ledger) == (70, 20)  # of the new window


async def test_g156_settling_charges_no_more_than_was_reserved(store: Store) -> None:
    async with opened(store.open_book) as ledger:
        ledger.settle(await ledger.reserve(ANN, Budget(40), 40), 100)
        assert await standing(ledger) == (0, 40)
        assert await ledger.served() == {Usage("acct", "key", "2026-04-24"): 100}


async def test_g154_a_reservation_ends_once(store: Store) -> None:
    async with opened(store.open_book) as ledger:
        first = await ledger.reserve(ANN, THOUSAND, 100)
        await ledger.reserve(ANN, THOUSAND, 300)
        ledger.settle(first, 50)
        ledger.settle(first, 50)
        ledger.release(first)
        ledger.release(Reservation("never made", ANN, 10))
        assert await standing(ledger) == (300, 50)


async def test_many_keys_at_once(store: Store) -> None:
    people = [Principal(f"acct-{i % 3}", f"key-{i}") for i in range(70)]
    async with opened(store.open_book) as ledger:

        async def spend(who: Principal, tokens: int) -> None:
            for _ in range(3):
                ledger.settle(await ledger.reserve(who, Budget(1000), 100), tokens)

        async with anyio.create_task_group() as tasks:
            for tokens, who in enumerate(people):
                tasks.start_soon(spend, who, tokens)
        for tokens, who in enumerate(people):
            assert await standing(ledger, who) == (0, 3 * tokens)


async def test_nobody_who_was_cancelled_holds_anything(store: Store) -> None:
    async with opened(store.open_book) as ledger:
        for turns in range(12):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ledger.reserve, ANN, THOUSAND, 10)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        # Those who were answered before they were cancelled have what they asked for.
        for id in list(ledger._open):
            ledger.release(Reservation(id, ANN, 10))
        # What was written for somebody who had left is taken back as soon as that is known.
        await until_standing(ledger, (0, 0))


async def test_no_number_is_too_large(store: Store) -> None:
    async with opened(store.open_book) as ledger:
        huge = await ledger.reserve(ANN, UNCAPPED, 10**5000)
        ledger.settle(huge, 10**5000)
        reserved, spent = await standing(ledger)
        assert (reserved, spent) == (0, huge.reserved)
        with pytest.raises(InsufficientQuota, match=r"available\)"):
            await ledger.reserve(Principal("acct", "poor"), Budget(10), 10**5000)


async def test_served_tokens_are_kept_for_35_days(store: Store) -> None:
    clock = Clock()
    async with opened(store.open_book, clock) as ledger:
        ledger.serve(ANN, 7)
        ledger.serve(ANN, 0)
        ledger.settle(await ledger.reserve(ANN, THOUSAND, 10), 3)
        clock.now += 86_400
        ledger.settle(await ledger.reserve(ANN, THOUSAND, 10), 5)
        await ledger.tidy()
        first, second = (Usage("acct", "key", f"2026-04-{day}") for day in (24, 25))
        assert await ledger.served() == {first: 10, second: 5}
        clock.now += 35 * 86_400
        await ledger.tidy()
        assert await ledger.served() == {second: 5}
        clock.now += 86_400
        await ledger.tidy()
        assert await ledger.served() == {}


async def test_reservations_of_a_running_gateway_do_not_expire(store: Store) -> None:
    clock = Clock()
    async with opened(store.open_book, clock) as ledger:
        held = await ledger.reserve(ANN, THOUSAND, 100)
        for _ in range(3):
            clock.now += 899  # even if it comes late, its own are extended first
            assert await ledger.tidy() == 0
        clock.now += 5000
        assert await ledger.tidy() == 0
        assert await standing(ledger) == (100, 0)
        ledger.settle(held, 60)
        assert await standing(ledger) == (0, 60)


async def test_g157_durable(lasting: Store) -> None:
    ledger = Ledger(lasting.open_book, clock=Clock())
    await ledger.start()
    for _ in range(3):
        ledger.settle(await ledger.reserve(ANN, THOUSAND, 20), 15)
    await ledger.aclose()
    async with opened(lasting.open_book) as again:
        assert await standing(again) == (0, 45)


async def test_what_a_dead_gateway_held_is_freed_after_900_s_and_charged_if_it_lives(
    lasting: Store,
) -> None:
    clock = Clock()
    async with (
        opened(lasting.open_book, clock) as halted,
        opened(lasting.open_book, clock) as other,
    ):
        held = [await halted.reserve(ANN, THOUSAND, 100) for _ in range(3)]
        clock.now += 899
        assert await other.tidy() == 0
        assert await standing(other) == (300, 0)
        clock.now += 1
        assert await other.tidy() == 3
        assert await standing(other) == (0, 0)
        halted.settle(held[0], 40)
        halted.release(held[1])
        await halted.tidy()  # what it still holds is not there any more
        assert await standing(halted) == (0, 40)


async def reserve_at_once(ledger: Ledger, budget: Budget, times: int, tokens: int) -> int:
    """How many of so many tasks were granted that."""
    granted = 0

    async def try_it() -> None:
        nonlocal granted
        try:
            await ledger.reserve(ANN, budget, tokens)
        except InsufficientQuota:
            return
        granted += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(try_it)
    return granted
