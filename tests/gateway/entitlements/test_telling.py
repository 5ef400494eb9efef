"""What an authority is told at the end of a request: soon, once, and without holding anybody up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from helexa.gateway.entitlements.provider import Principal, Reservation
from helexa.gateway.entitlements.telling import MOST_AT_ONCE, Teller
from tests.gateway.entitlements.authorities import SECRET, MockAuthority, mock_authority
from tests.gateway.entitlements.test_authority import MESH, chain, chained, upstream
from tests.gateway.front import Front, front
from tests.gateway.mock_setups import refusing
from tests.gateway.mocks import CHAT, RESET, MockNeuron, mock_neuron
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

WHO = {"authorization": "Bearer mesh-key"}


@asynccontextmanager
async def slow_to(message: str) -> AsyncIterator[tuple[Front, MockNeuron, MockAuthority]]:
    """A gateway whose authority does not answer a message, until the block ends."""
    async with mock_authority() as authority, mock_neuron() as mock:
        asked = {"enabled": True, "url": authority.url, "bearer": SECRET, "timeout_secs": 60}
        async with front(mock, upstream=asked) as gw:
            authority.held[message] = anyio.Event()
            try:
                yield gw, mock, authority
            finally:
                authority.held[message].set()


async def test_a_connection_goes_on_while_the_authority_is_told_of_its_last_request() -> None:
    async with slow_to("settle") as (gw, mock, authority):
        with anyio.fail_after(5):
            for _ in range(3):
                assert (await gw.post(headers=WHO)).status_code == 200
        await settle(lambda: len(authority.bodies("settle")) == 3)
        assert mock.hits == 3


async def test_an_error_is_answered_before_the_authority_has_heard_of_it() -> None:
    async with slow_to("release") as (gw, mock, authority):
        with anyio.fail_after(5):
            mock.on(CHAT, RESET)
            assert (await gw.post(headers=WHO)).status_code == 502
            refusing(429, 3)(mock)
            assert (await gw.post(headers=WHO)).status_code == 429
        await settle(lambda: len(authority.bodies("release")) == 2)
        assert authority.bodies("settle") == []


async def test_one_slow_answer_holds_up_no_other_message() -> None:
    async with chained() as (mock, provider):
        mock.held["settle"] = anyio.Event()
        await provider.settle(Reservation("first", MESH, 50), 5)
        await settle(lambda: bool(mock.bodies("settle")))
        await provider.release(Reservation("second", MESH, 50))
        await settle(lambda: mock.bodies("release") == [{"reservation_id": "second"}])
        mock.held["settle"].set()


async def test_few_are_told_at_once_and_the_oldest_first() -> None:
    async with chained() as (mock, provider):
        mock.held["settle"] = anyio.Event()
        for number in range(3 * MOST_AT_ONCE):
            await provider.settle(Reservation(f"{number:02}", MESH, 50), number)
        await settle(lambda: len(mock.bodies("settle")) == MOST_AT_ONCE)
        await provider.resolve("mesh-key")
        first = sorted(body["actual_tokens"] for body in mock.bodies("settle"))
        assert first == list(range(MOST_AT_ONCE))
        mock.held["settle"].set()
        await settle(lambda: len(mock.bodies("settle")) == 3 * MOST_AT_ONCE)
        told = {body["reservation_id"]: body["actual_tokens"] for body in mock.bodies("settle")}
        assert told == {f"{number:02}": number for number in range(3 * MOST_AT_ONCE)}


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_waits_is_told_before_the_end(cancelled: bool) -> None:
    """Also where what ends the gateway is that its task is cancelled."""
    count = 5 * MOST_AT_ONCE
    async with mock_authority() as mock:
        with anyio.CancelScope() as scope:
            async with chain(mock.url) as provider:
                for number in range(count):
                    await provider.settle(Reservation(f"{number}", MESH, 50), number)
                if cancelled:
                    scope.cancel()
        assert sorted(body["actual_tokens"] for body in mock.bodies("settle")) == [*range(count)]


async def test_a_client_that_has_left_is_charged() -> None:
    async with chained() as (mock, provider):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await provider.settle(Reservation("x", MESH, 50), 7)
        await settle(lambda: bool(mock.bodies("settle")))
        assert mock.bodies("settle") == [{"reservation_id": "x", "actual_tokens": 7}]


async def test_what_it_is_told_is_best_effort(caplog: pytest.LogCaptureFixture) -> None:
    async with chained() as (mock, provider):
        mock.answers |= {"settle": (401, {}), "release": (500, {})}
        await provider.settle(Reservation("x", MESH, 50), 5)
        await settle(lambda: "settle: status 401" in caplog.text)
        await provider.release(Reservation("y", MESH, 50))
        await settle(lambda: bool(mock.bodies("release")))
        assert (len(mock.bodies("settle")), len(mock.bodies("release"))) == (1, 1)
        assert SECRET not in caplog.text


async def test_more_than_can_wait_is_lost_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    said: list[Any] = []

    class Slow:
        async def tell(self, message: str, body: dict[str, Any]) -> None:
            said.append(body["n"])
            await anyio.sleep_forever()

    slow: Any = Slow()  # of an authority, only what a teller needs
    teller = Teller(slow, most_waiting=3, flush_s=0.05)
    async with anyio.create_task_group() as tasks:
        await tasks.start(teller.run)
        for number in range(5):
            teller.tell("settle", {"n": number})
        assert "2 messages" not in caplog.text
        assert "1 messages to the entitlement authority are lost, 3 wait for it" in caplog.text
        await teller.flush()  # not for ever
        assert sorted(said) == [0, 1, 2]
        teller.stop()
    assert "3 messages to the entitlement authority were not answered in time" in caplog.text
    teller.tell("settle", {"n": 9})
    assert sorted(said) == [0, 1, 2]


async def test_an_error_of_the_block_is_its_own() -> None:
    settings = upstream("http://127.0.0.1:9")
    assert settings.enabled
    with pytest.raises(ZeroDivisionError):
        async with chain("http://127.0.0.1:9") as provider:
            assert await provider.resolve("local-key") == Principal("op", "op-key")
            raise ZeroDivisionError
