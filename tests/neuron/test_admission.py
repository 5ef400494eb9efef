"""Admission by its numbered cases, on a clock that jumps."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import pytest

from helexa.daemon.logs import fields_of
from helexa.neuron.admission import Admission, principal_of
from helexa.neuron.config import AdmissionConfig
from helexa.neuron.seating import Rules
from helexa.protocol.control import ModelLoad
from helexa.refusals import (
    AnonYield,
    KvTimeout,
    KvUnservable,
    ModelUnloaded,
    PrincipalCap,
    QueueFull,
    SeatTimeout,
    ShuttingDown,
)
from tests.neuron.callers import callers, settle

pytestmark = pytest.mark.anyio


def door(seats: int = 1, queue: int = 8, budget_mb: int | None = None, **rules: int) -> Admission:
    config = AdmissionConfig(max_in_flight=seats, max_queue_depth=queue, **rules)
    return Admission("m", config, kv_budget_mb=budget_mb)


def load(door: Admission) -> ModelLoad:
    return door.report()


async def test_n103_load_report() -> None:
    at = door(queue=4)
    async with at.enter("a/k"):
        assert (load(at).in_flight, load(at).queue_depth) == (1, 0)
    assert (load(at).in_flight, load(at).queue_depth) == (0, 0)


async def test_n104_queue_full() -> None:
    at = door(queue=1)
    async with callers(at) as enter:
        runner, waiter = await enter("a/k"), await enter("b/k")
        with pytest.raises(QueueFull) as refusal:
            await at.acquire("c/k")
        assert refusal.value.retry_after_s == 4
        assert refusal.value.message == "model is busy (admission queue full); retry shortly"
        assert load(at) == replace(
            load(at), rejected_queue_full=1, rejected_timeout=0, queue_depth=1
        )
        await runner.leave()
        assert waiter.permit is not None


async def test_n105_wait_timeout() -> None:
    at = door(max_wait_secs=0)
    async with at.enter("a/k"):
        with pytest.raises(SeatTimeout):
            await at.acquire("b/k")
        assert (load(at).queue_depth, load(at).rejected_timeout) == (0, 1)


@pytest.mark.parametrize(
    ("pending", "hint_s"), [(1, 2), (2, 4), (3, 6), (4, 8), (9, 18), (100, 120), (0, 2)]
)
async def test_n106_hint(pending: int, hint_s: int) -> None:
    assert Rules.of(AdmissionConfig(max_in_flight=1)).hint_s(pending) == hint_s


async def test_n107_principal_cap() -> None:
    at = door(max_per_principal=1)
    async with callers(at) as enter:
        first, second, other = await enter("a/k"), await enter("a/k"), await enter("b/k")
        assert isinstance(second.error, PrincipalCap)
        assert (second.error.retry_after_s, second.error.status) == (2, 429)
        assert load(at).rejected_per_principal == 1
        assert other.permit is None
        await first.leave()
        assert other.permit is not None


async def test_n108_cancelled_waiters() -> None:
    at = door(max_per_principal=2)
    async with callers(at) as enter:
        runner = await enter("r/k")
        waiters = [await enter("a/k"), await enter("a/k")]
        for waiter in waiters:
            await waiter.cancel()
        assert load(at).queue_depth == 0
        following = await enter("a/k")
        await runner.leave()
        assert following.permit is not None


async def test_n109_close() -> None:
    at = door(seats=2, budget_mb=1000)
    async with callers(at) as enter:
        runner = await enter("r/k", 900)
        second = await enter("s/k")
        waiting = [await enter("a/k"), await enter("b/k", 500), await enter(None)]
        before_s = anyio.current_time()
        at.close(ShuttingDown)
        await settle()
        assert all(isinstance(waiter.error, ShuttingDown) for waiter in waiting)
        assert len({id(waiter.error) for waiter in waiting}) == 3
        assert all(waiter.refused_s == before_s for waiter in waiting)
        with pytest.raises(ShuttingDown) as refusal:
            await at.acquire("late/k")
        assert refusal.value.retry_after_s == 15
        assert runner.error is None
        assert second.error is None
        assert (load(at).in_flight, load(at).queue_depth) == (2, 0)


async def test_a_door_closes_for_the_reason_given() -> None:
    at = door()
    at.close(lambda: ModelUnloaded("m"))
    with pytest.raises(ModelUnloaded, match="'m' was unloaded"):
        await at.acquire("a/k")


async def test_n110_kv_queue() -> None:
    at = door(seats=8, budget_mb=3000)
    async with callers(at) as enter:
        first, _ = await enter("a/k", 1200), await enter("b/k", 1200)
        assert load(at).kv_available_mb == 600
        third = await enter("c/k", 1200)
        assert third.permit is None
        await first.leave()
        assert third.permit is not None


async def test_memory_is_given_in_order() -> None:
    """A small request behind a large one waits too, or the large one would wait for ever."""
    at = door(seats=8, budget_mb=1000)
    async with callers(at) as enter:
        first = await enter("a/k", 600)
        large, small = await enter("b/k", 500), await enter("c/k", 100)
        assert (large.permit, small.permit) == (None, None)
        await first.leave()
        assert large.permit is not None
        assert small.permit is not None


@pytest.mark.parametrize(("budget_mb", "wanted_mb"), [(2000, 5000), (0, 1)])
async def test_n111_kv_unservable(budget_mb: int, wanted_mb: int) -> None:
    at = door(budget_mb=budget_mb)
    with pytest.raises(KvUnservable) as refusal:
        await at.acquire("a/k", wanted_mb)
    assert (refusal.value.required_mb, refusal.value.budget_mb) == (wanted_mb, budget_mb)
    assert (refusal.value.status, refusal.value.retry_after_s) == (413, None)
    assert (load(at).rejected_kv_unservable, load(at).queue_depth) == (1, 0)


async def test_n112_kv_return() -> None:
    at = door(budget_mb=1000)
    async with at.enter("a/k", 400):
        assert load(at).kv_available_mb == 600
    assert load(at).kv_available_mb == 1000


async def test_n113_kv_unset() -> None:
    at = door(seats=2)
    async with AsyncExitStack() as stack:
        for name in ("a/k", "b/k"):
            await stack.enter_async_context(at.enter(name, 99999))
        assert load(at).in_flight == 2


async def test_n114_kv_once() -> None:
    at = door()
    at.set_kv_budget(1000)
    at.set_kv_budget(5)
    assert load(at).kv_budget_mb == 1000


async def test_n115_kv_timeout() -> None:
    at = door(seats=2, budget_mb=1000, kv_max_wait_secs=0)
    async with at.enter("a/k", 800):
        with pytest.raises(KvTimeout) as refusal:
            await at.acquire("b/k", 800)
    error = refusal.value
    assert (error.status, error.code) == (503, "insufficient_vram")
    assert (error.free_mb, error.required_mb, error.retry_after_s) == (200, 800, 18)
    assert load(at).rejected_kv_timeout == 1


async def test_n116_anon_last_seat() -> None:
    at = door(seats=4, anon_max_in_flight=3)
    async with callers(at) as enter:
        anonymous = [await enter() for _ in range(4)]
        assert [caller.permit is not None for caller in anonymous] == [True, True, True, False]
        known = await enter("a/k")
        assert known.permit is not None
        assert (load(at).in_flight, load(at).anon_in_flight) == (4, 3)


async def test_n117_anon_yields() -> None:
    at = door()
    async with callers(at) as enter:
        runner = await enter("r/k")
        anonymous, known = await enter(), await enter("a/k")
        await runner.leave()
        assert anonymous.permit is None
        assert known.permit is not None
        await known.leave()
        assert anonymous.permit is not None


async def test_n118_anon_pending() -> None:
    at = door(queue=3, anon_max_pending=3)
    async with callers(at) as enter:
        for _ in range(3):
            await enter()
        fourth, known = await enter(), await enter("a/k")
        assert isinstance(fourth.error, AnonYield)
        assert load(at).rejected_anon_yield == 1
        assert known.error is None
        assert load(at).queue_depth == 3


async def test_n119_anon_ceiling() -> None:
    at = door(seats=2, anon_max_in_flight=1, max_wait_secs=1)
    async with callers(at) as enter:
        await enter()
        second = await enter()
        await anyio.sleep(1.1)
        assert isinstance(second.error, AnonYield)
        assert (load(at).anon_in_flight, load(at).queue_depth) == (1, 0)


@pytest.mark.parametrize("seats", [1, 4])
async def test_n120_anon_kv_wait(seats: int) -> None:
    at = door(seats=seats, budget_mb=1000, max_wait_secs=1, kv_max_wait_secs=300)
    async with callers(at) as enter:
        holder, waiter = await enter("a/k", 1000), await enter(None, 500)
        await anyio.sleep(5)
        assert (waiter.permit, waiter.error, load(at).rejected_timeout) == (None, None, 0)
        await holder.leave()
        assert waiter.permit is not None


async def test_an_anonymous_caller_waits_for_memory_only_so_long() -> None:
    at = door(seats=4, budget_mb=1000, max_wait_secs=1, kv_max_wait_secs=300)
    async with callers(at) as enter:
        await enter("a/k", 800)
        waiter = await enter(None, 500)
        await anyio.sleep(301)
        assert isinstance(waiter.error, KvTimeout)
        assert (waiter.error.free_mb, load(at).rejected_kv_timeout) == (200, 1)


async def test_n121_anon_full() -> None:
    at = door(max_wait_secs=1)
    async with callers(at) as enter:
        await enter("a/k")
        waiter = await enter()
        await anyio.sleep(1.1)
        assert isinstance(waiter.error, SeatTimeout)
        assert (load(at).rejected_timeout, load(at).rejected_anon_yield) == (1, 0)


async def test_n122_anon_cancel() -> None:
    at = door()
    async with callers(at) as enter:
        runner, waiter = await enter("a/k"), await enter()
        await waiter.cancel()
        assert (load(at).queue_depth, load(at).anon_in_flight) == (0, 0)
        later = await enter()
        await runner.leave()
        assert later.permit is not None


async def test_n123_anon_zero() -> None:
    at = door(anon_max_in_flight=0)
    with pytest.raises(AnonYield):
        await at.acquire(None)
    async with at.enter("a/k"):
        assert load(at).in_flight == 1


async def test_n124_defaults() -> None:
    assert [load(door(seats=seats)).anon_max_in_flight for seats in (8, 1)] == [7, 1]
    assert load(door(seats=2, anon_max_in_flight=9)).anon_max_in_flight == 2


@pytest.mark.parametrize(
    ("account", "key", "trusted", "principal"),
    [
        ("a", "k", True, "a/k"),
        ("a", None, True, None),
        ("a", "k", False, None),
        ("", "k", True, None),
        ("a b", "k", True, None),
        ("a", "é", True, None),
        ("a" * 256, "k", True, f"{'a' * 256}/k"),
        ("a" * 257, "k", True, None),
    ],
)
async def test_n125_principal(
    account: str, key: str | None, trusted: bool, principal: str | None
) -> None:
    headers = {"x-helexa-account-id": account}
    if key is not None:
        headers["x-helexa-key-id"] = key
    assert principal_of(headers, trusted=trusted) == principal


async def test_n132_a_footprint_is_admitted_or_cannot_be() -> None:
    async with door(budget_mb=35428).enter("a/k", 2976) as permit:
        assert permit.kv_mb == 2976
    with pytest.raises(KvUnservable) as refusal:
        await door(budget_mb=428).acquire("a/k", 2976)
    assert (refusal.value.required_mb, refusal.value.budget_mb) == (2976, 428)


async def test_identified_callers_are_served_in_the_order_they_came() -> None:
    at = door()
    async with callers(at) as enter:
        runner = await enter("r/k")
        line = [await enter(f"{n}/k") for n in range(4)]
        for caller in [runner, *line[:-1]]:
            await caller.leave()
            served = [waiter.permit is not None for waiter in line]
            assert served == sorted(served, reverse=True)
        assert line[-1].permit is not None


async def test_a_permit_moves_to_the_next_door_with_its_seat_and_memory() -> None:
    old, new = door(seats=2, budget_mb=1000), door(seats=2, budget_mb=500)
    permit = await old.acquire("a/k", 800)
    old.close(lambda: ModelUnloaded("m"))
    permit.move(new)
    assert (load(old).in_flight, load(new).in_flight) == (0, 1)
    assert load(new).kv_available_mb == 0
    permit.release()
    permit.release()
    assert (load(new).in_flight, load(new).kv_available_mb) == (0, 500)


async def test_a_seat_granted_to_a_caller_who_is_being_cancelled_is_passed_on() -> None:
    at = door()
    async with callers(at) as enter:
        runner, waiter, following = await enter("r/k"), await enter("a/k"), await enter("b/k")
        runner.permit.release()  # type: ignore[union-attr]  # it runs
        waiter.scope.cancel()  # before its task has heard of the seat
        await settle()
        assert following.permit is not None
        assert load(at).in_flight == 1


async def test_a_long_wait_is_logged_however_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "helexa")
    at = door(max_wait_secs=30, max_per_principal=0)
    async with callers(at) as enter:
        runner, left, admitted = await enter("a/k"), await enter("b/k"), await enter("c/k")
        refused = await enter("d/k")
        await anyio.sleep(5)
        brief = await enter("e/k")
        await anyio.sleep(7)
        await brief.cancel()
        await left.cancel()
        await runner.leave()
        assert admitted.permit is not None
        await anyio.sleep(19)
        assert isinstance(refused.error, SeatTimeout)
    said = [fields_of(record) for record in caplog.records]
    assert [(line["principal"], line["outcome"], line["waited_ms"]) for line in said] == [
        ("b/k", "left", 12000),
        ("c/k", "admitted", 12000),
        ("d/k", "refused", 30000),
    ]
