"""Models of equal rank that do not fit together: they take turns, and every request is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from helexa.gateway import giving_way
from helexa.gateway.catalogue import Catalogue, Profile
from helexa.gateway.poller import poll_once
from tests.gateway.front import Front, front
from tests.gateway.mocks import mock_neuron
from tests.gateway.small_card import SmallCard
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

SIZE_MB = 20_000
TWO = {"a": SIZE_MB, "b": SIZE_MB}


@asynccontextmanager
async def fronted(card: SmallCard) -> AsyncIterator[Front]:
    """A gateway that has had a look at the card."""
    profiles = {name: Profile(name, vram_mb=size_mb) for name, size_mb in card.sizes.items()}
    async with (
        mock_neuron(card.setup) as mock,
        front(mock, catalogue=Catalogue(profiles), seeded=False) as gw,
    ):
        await poll_once(gw.state)
        yield gw


async def test_requests_for_two_models_that_come_together_are_all_answered() -> None:
    card, statuses = SmallCard(TWO), Counter[tuple[str, int]]()
    async with fronted(card) as gw:

        async def ask(name: str) -> None:
            answer = await gw.post(model=name)
            statuses[name, answer.status_code] += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask, "a")
                tasks.start_soon(ask, "b")
    assert statuses == {("a", 200): 5, ("b", 200): 5}
    assert (card.count("load"), card.count("unload")) == (2, 1)
    assert card.count("gone") == 0


async def test_clients_that_never_pause_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE_S", 0.2)
    card, answered, refused = SmallCard(TWO), Counter[str](), Counter[int]()
    async with fronted(card) as gw:

        async def keep_asking(name: str, until: float) -> None:
            while anyio.current_time() < until:
                answer = await gw.post(model=name)
                if answer.status_code == 200:
                    answered[name] += 1
                else:
                    refused[answer.status_code] += 1

        until = anyio.current_time() + 3.0
        async with anyio.create_task_group() as tasks:
            for name in ("a", "a", "a", "b", "b", "b"):
                tasks.start_soon(keep_asking, name, until)
        assert not refused
        assert min(answered["a"], answered["b"]) >= 9
        assert card.count("load") >= 4  # at 0.2 s each there is time for some turns
        assert card.count("busy") == card.count("gone") == 0
        assert gw.node().leaving == set() and gw.node().loading == {}


async def test_a_running_answer_is_waited_for() -> None:
    card = SmallCard(TWO, chat_s=0.6)
    async with fronted(card) as gw:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: gw.post(model="a"))
            await settle(lambda: ("chat", "a") in card.story)
            answer = await gw.post(model="b")
        assert answer.status_code == 200
        assert card.story == [
            ("load", "a"),
            ("chat", "a"),
            ("no room", "b"),  # it might have been otherwise
            ("unload", "a"),
            ("load", "b"),
            ("chat", "b"),
        ]


async def test_who_was_made_to_leave_stays_if_the_other_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE_S", 0.0)
    monkeypatch.setattr(giving_way, "CLOSED_S", 0.4)
    card = SmallCard(TWO, chat_s=1.5)
    async with fronted(card) as gw:
        answers: dict[str, httpx.Response] = {}

        async def ask(key: str, name: str) -> None:
            answers[key] = await gw.post(model=name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "first", "a")
            await settle(lambda: ("chat", "a") in card.story)
            tasks.start_soon(ask, "other", "b")
            await settle(lambda: bool(gw.node().leaving))
            tasks.start_soon(ask, "second", "a")
        # b is told to come back, not that it can never be had: it was only in the way of a
        assert answers["other"].status_code == 503
        assert 1 <= int(answers["other"].headers["retry-after"]) <= 30
        assert {answers[key].status_code for key in ("first", "second")} == {200}
        assert (card.count("load", "a"), card.count("unload")) == (1, 0)
        assert gw.node().leaving == set() and gw.node().loading == {}


async def test_what_nobody_waits_for_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE_S", 0.0)
    card = SmallCard(TWO, chat_s=1.5)
    async with fronted(card) as gw, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gw.post(model="a"))
        await settle(lambda: ("chat", "a") in card.story)
        with anyio.move_on_after(0.5) as gone:
            await gw.post(model="b")
        assert gone.cancelled_caught
        await settle(lambda: gw.node().leaving == set() and gw.node().loading == {})
        assert card.running == {"a": 1}
        assert (await gw.post(model="a")).status_code == 200
        assert card.count("load") == 1


async def test_what_fits_is_loaded_while_another_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE_S", 0.0)
    card = SmallCard(TWO | {"small": 1_000}, chat_s=1.5)
    async with fronted(card) as gw, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gw.post(model="a"))
        await settle(lambda: ("chat", "a") in card.story)
        tasks.start_soon(lambda: gw.post(model="b"))
        await settle(lambda: gw.node().leaving == {"a"})
        card.chat_s = 0.0
        assert (await gw.post(model="small")).status_code == 200
        assert card.running["a"] == 1 and gw.node().leaving == {"a"}
    assert [name for what, name in card.story if what == "chat"] == ["a", "small", "b"]


@pytest.mark.parametrize("ends", [True, False])
async def test_requests_of_others_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(giving_way, "ASK_S", 0.05)
    monkeypatch.setattr(giving_way, "PATIENCE_S", 0.1)
    monkeypatch.setattr(giving_way, "CLOSED_S", 20.0 if ends else 0.3)
    card = SmallCard(TWO, loaded={"a"}, running={"a": 1})
    async with fronted(card) as gw, anyio.create_task_group() as tasks:
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await gw.post(model="b")).status_code)

        tasks.start_soon(ask)
        await settle(lambda: card.count("busy", "a") > 0)
        if ends:
            card.running["a"] = 0
        await settle(lambda: bool(answers))
        assert answers == [200 if ends else 503]
        assert card.count("unload", "a") == ends


async def test_a_model_that_somebody_else_unloads_is_waited_for_no_longer() -> None:
    card = SmallCard(TWO, chat_s=3.0)
    async with fronted(card) as gw, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gw.post(model="a"))
        await settle(lambda: ("chat", "a") in card.story)
        tasks.start_soon(lambda: gw.post(model="b"))
        await settle(lambda: card.count("no room", "b") == 1)
        card.loaded.discard("a")  # which its own request does not know yet
        await poll_once(gw.state)
        await settle(lambda: card.count("load", "b") == 1)
        assert card.running["a"] == 1 and card.count("unload") == 0
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_model_that_recovers_is_in_the_way_until_it_can_leave(
    monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setattr(giving_way, "ASK_S", 0.05)
    monkeypatch.setattr(giving_way, "CLOSED_S", 20.0 if comes_back else 0.3)
    monkeypatch.setattr(giving_way, "PATIENCE_S", 0.1)
    card = SmallCard(TWO, loaded={"a"}, recovering={"a"})
    async with fronted(card) as gw, anyio.create_task_group() as tasks:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await gw.post(model="b"))

        tasks.start_soon(ask)
        await settle(lambda: card.count("no room", "b") == 1)
        assert not answers
        if comes_back:
            card.recovering.clear()
        await settle(lambda: bool(answers))
        # where it never comes back, that says nothing about the other: come again, not never
        assert answers[0].status_code == (200 if comes_back else 503)
        assert card.count("unload", "a") == comes_back
