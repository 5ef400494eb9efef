"""Keys that an authority knows: what it is asked, and what is made of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from helexa.gateway.config import EntitlementsConfig, KeyConfig, UpstreamConfig
from helexa.gateway.entitlements.chain import Chain
from helexa.gateway.entitlements.opening import open_provider
from helexa.gateway.entitlements.provider import Principal, Snapshot
from helexa.gateway.refusals import AuthorityUnavailable
from helexa.http import Client
from helexa.refusals import InsufficientQuota, RateLimited
from tests.gateway.entitlements.authorities import SECRET, MockAuthority, mock_authority
from tests.gateway.entitlements.stores import Clock
from tests.gateway.front import front, key
from tests.gateway.mocks import gone, mock_neuron
from tests.http.wire import settle

pytestmark = pytest.mark.anyio

LOCAL = KeyConfig("local-key", "op", "op-key", hard_cap=1000)
MESH = Principal("mesh-acct", "mesh-key-1", "upstream")


def upstream(url: str, **more: Any) -> UpstreamConfig:
    return UpstreamConfig(enabled=True, url=url, bearer=SECRET, **more)


@asynccontextmanager
async def chain(
    url: str,
    *keys: KeyConfig,
    ledger: str = "memory",
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[Chain]:
    settings = EntitlementsConfig(keys=keys or (LOCAL,), ledger=ledger)
    async with (
        Client() as client,
        open_provider(settings, upstream(url, **more), {}, client, clock=clock or Clock()) as found,
    ):
        assert found is not None
        yield found


@asynccontextmanager
async def chained(**more: Any) -> AsyncIterator[tuple[MockAuthority, Chain]]:
    async with mock_authority() as mock, chain(mock.url, **more) as provider:
        yield mock, provider


async def test_g168_chain() -> None:
    async with chained() as (mock, provider):
        assert await provider.resolve("local-key") == Principal("op", "op-key", "static")
        assert mock.asked == []
        assert await provider.resolve("mesh-key") == MESH
        assert await provider.resolve("mesh-key") == MESH
        assert await provider.resolve("other") is None
        assert mock.bodies("resolve") == [
            {"api_key": "mesh-key"},
            {"api_key": "mesh-key"},  # nothing is kept
            {"api_key": "other"},
        ]


async def test_g169_authority_down() -> None:
    away = {"enabled": True, "url": gone()}
    keys = (key("local-key", "op", "op-key"),)
    async with mock_neuron() as mock, front(mock, keys=keys, upstream=away) as gw:
        answer = await gw.post(headers={"authorization": "Bearer unknown"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"] == {
            "message": "entitlement authority temporarily unavailable",
            "type": "api_error",
            "code": "service_unavailable",
            "param": None,
        }
        assert mock.hits == 0
        answer = await gw.post(headers={"authorization": "Bearer local-key"})
        assert answer.status_code == 200


GRANTED = {"reservation_id": "remote-1"}
BROKE = {"rejected": {"kind": "insufficient_quota", "requested": 1000, "available": 3}}
LIMITED = {
    "rejected": {
        "kind": "rate_limited",
        "requested": 1000,
        "available": 3,
        "retry_after_secs": 7,
    }
}


@pytest.mark.parametrize(
    ("answer", "status", "code", "retry"),
    [
        ((200, GRANTED), 200, None, None),
        ((200, BROKE), 429, "insufficient_quota", None),
        ((200, LIMITED), 429, "rate_limit_exceeded", "7"),
        ((500, {}), 429, "rate_limit_exceeded", "5"),
    ],
    ids=["granted", "insufficient_quota", "rate_limited", "fails"],
)
async def test_g170_upstream_reserve(
    answer: tuple[int, Any], status: int, code: str | None, retry: str | None
) -> None:
    async with mock_authority() as authority, mock_neuron() as mock:
        authority.answers["reserve"] = answer
        asked = {"enabled": True, "url": authority.url, "bearer": SECRET}
        async with front(mock, upstream=asked) as gw:
            got = await gw.post(headers={"authorization": "Bearer mesh-key"}, max_tokens=1000)
            assert (got.status_code, got.headers.get("retry-after")) == (status, retry)
            assert mock.hits == (status == 200)
            (reserve,) = authority.bodies("reserve")
            assert reserve["account_id"] == "mesh-acct"
            assert reserve["key_id"] == "mesh-key-1"
            assert reserve["max_tokens"] > 1000
            if status == 200:
                await settle(lambda: bool(authority.bodies("settle")))
                told = {"reservation_id": "remote-1", "actual_tokens": 15}
                assert authority.bodies("settle") == [told]
            else:
                assert got.json()["error"]["code"] == code


async def test_g171_same_account() -> None:
    """Each settles where it was reserved, even if both have one name."""
    same = KeyConfig("local-key", "mesh-acct", "mesh-key-1", hard_cap=1000)
    async with mock_authority() as mock, chain(mock.url, same) as provider:
        here = await provider.resolve("local-key")
        there = await provider.resolve("mesh-key")
        assert here is not None
        assert there == MESH
        at_home = await provider.reserve(here, 100)
        abroad = await provider.reserve(there, 200)
        await provider.settle(at_home, 10)
        await provider.settle(abroad, 20)
        assert await provider.snapshot(here) == Snapshot(1000, 10, 0)
        assert await provider.snapshot(there) == Snapshot(100, 30, 20)
        await settle(lambda: bool(mock.bodies("settle")))
        (told,) = mock.bodies("settle")
        assert told == {"reservation_id": abroad.id, "actual_tokens": 20}
        await provider.release(await provider.reserve(here, 100))
        assert await provider.snapshot(here) == Snapshot(1000, 10, 0)
        assert mock.bodies("release") == []
        abroad = await provider.reserve(there, 200)
        await provider.release(abroad)
        await settle(lambda: bool(mock.bodies("release")))
        assert mock.bodies("release") == [{"reservation_id": abroad.id}]


async def test_g172_served_usage(tmp_path: Path) -> None:
    clock, ledger = Clock(), f"sqlite:///{tmp_path}/ledger.db"
    keys = [KeyConfig(f"sk-{id}", "acct", id) for id in ("key", "other")]
    rows = {("acct", "key", "2026-04-24"): 15, ("acct", "other", "2026-04-24"): 7}
    async with mock_authority() as mock:
        async with chain(mock.url, *keys, ledger=ledger, clock=clock) as provider:
            for id, tokens in (("key", 10), ("key", 5), ("key", 0), ("other", 7)):
                who = Principal("acct", id)
                await provider.settle(await provider.reserve(who, 20), tokens)
            assert provider.reporter is not None
            await provider.reporter.flush()
            assert mock.served == rows
            assert len(mock.bodies("served-usage")) == 1
            await provider.reporter.flush()
            assert len(mock.bodies("served-usage")) == 1
        assert len(mock.bodies("served-usage")) == 1  # nothing new at the end, either
        async with chain(mock.url, *keys, ledger=ledger, clock=clock) as provider:
            assert provider.reporter is not None
            await provider.reporter.flush()
            first, again = mock.bodies("served-usage")
            assert sorted(first["rows"], key=str) == sorted(again["rows"], key=str)
            await provider.settle(await provider.reserve(MESH, 20), 4)
        last = mock.bodies("served-usage")[-1]  # reported at the end
    assert last["rows"] == [
        {
            "account_id": "mesh-acct",
            "key_id": "mesh-key-1",
            "period": "2026-04-24",
            "served_tokens": 4,
        }
    ]


async def test_a_report_that_failed_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    async with chained() as (mock, provider):
        assert provider.reporter is not None
        await provider.reporter.flush()
        assert mock.asked == []
        await provider.settle(await provider.reserve(Principal("op", "op-key"), 20), 4)
        mock.answers["served-usage"] = (500, {})
        await provider.reporter.flush()
        assert "served-usage: status 500" in caplog.text
        del mock.answers["served-usage"]
        await provider.reporter.flush()
        assert list(mock.served.values()) == [4]


async def test_reports_are_made_beside() -> None:
    who = Principal("op", "op-key")
    async with (
        chained(served_usage_report_interval_secs=0.02) as (mock, provider),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(provider.keep)
        await provider.settle(await provider.reserve(who, 20), 4)
        await settle(lambda: list(mock.served.values()) == [4])
        await provider.settle(await provider.reserve(who, 20), 2)
        await settle(lambda: list(mock.served.values()) == [6])
        tasks.cancel_scope.cancel()


NOBODY: list[Any] = [
    *({}, [], {"principal": None}, {"principal": {"account_id": "a"}}),
    {"principal": {"account_id": "a", "key_id": 7}},
    {"principal": {"account_id": "", "key_id": "k"}},
    {"principal": {"account_id": "a b", "key_id": "k"}},
    {"principal": {"account_id": "a\n", "key_id": "k"}},
    {"principal": {"account_id": "é", "key_id": "k"}},
    {"principal": {"account_id": "a" * 129, "key_id": "k"}},
    *(b"", b"not JSON", b"[" * 100_000, b'{"a":"' + b"a" * 70_000 + b'"}'),
]


@pytest.mark.parametrize("answer", NOBODY, ids=lambda answer: repr(answer)[:40])
async def test_a_principal_that_cannot_be_one(answer: Any) -> None:
    async with chained() as (mock, provider):
        mock.answers["resolve"] = (200, answer)
        with pytest.raises(AuthorityUnavailable) as down:
            await provider.resolve("mesh-key")
        assert down.value.retry_after_s == 5


@pytest.mark.parametrize("status", [204, 302, 400, 403, 404, 429, 500, 503])
async def test_other_statuses_of_resolve(status: int) -> None:
    async with chained() as (mock, provider):
        mock.answers["resolve"] = (status, b"")
        with pytest.raises(AuthorityUnavailable):
            await provider.resolve("mesh-key")


def rejection(**fields: Any) -> dict[str, Any]:
    return {"rejected": LIMITED["rejected"] | fields}


@pytest.mark.parametrize(
    "answer",
    [
        *({}, [], {"reservation_id": ""}, {"reservation_id": 7}, {"rejected": "no"}),
        {"reservation_id": "x" * 1025},
        *(rejection(kind="bored"), rejection(requested=-1), rejection(available="3")),
        *(rejection(available=True), rejection(retry_after_secs=1.5), b"not JSON"),
        *(rejection(requested=None), rejection(requested=2**63)),
    ],
    ids=lambda answer: repr(answer)[:60],
)
async def test_reserving_fails_closed(answer: Any) -> None:
    async with chained() as (mock, provider):
        mock.answers["reserve"] = (200, answer)
        with pytest.raises(RateLimited) as limited:
            await provider.reserve(MESH, 50)
        assert limited.value.retry_after_s == 5
        assert str(limited.value) == (
            "rolling-window budget exhausted (50 requested, 0 available); resets in 5s"
        )


async def test_rejections_in_words() -> None:
    async with chained() as (mock, provider):
        mock.answers["reserve"] = (200, BROKE)
        with pytest.raises(InsufficientQuota, match=r"\(1000 requested, 3 available\)$"):
            await provider.reserve(MESH, 50)
        mock.answers["reserve"] = (200, rejection(retry_after_secs=0))
        with pytest.raises(RateLimited, match="resets in 1s"):
            await provider.reserve(MESH, 50)
        mock.answers["reserve"] = (200, rejection(retry_after_secs=None))
        with pytest.raises(RateLimited, match="resets in 5s"):
            await provider.reserve(MESH, 50)


async def test_silence_is_limited_as_a_whole() -> None:
    async with chained(timeout_secs=0.1) as (mock, provider):
        mock.silent |= {"resolve", "reserve", "settle", "release", "snapshot"}
        with anyio.fail_after(5):
            with pytest.raises(AuthorityUnavailable):
                await provider.resolve("mesh-key")
            with pytest.raises(RateLimited):
                await provider.reserve(MESH, 50)
            with pytest.raises(AuthorityUnavailable):
                await provider.snapshot(MESH)


async def test_what_it_grants_to_somebody_who_has_left_is_known_and_released() -> None:
    async with chained() as (mock, provider):
        with anyio.CancelScope() as scope:
            scope.cancel()
            held = await provider.reserve(MESH, 50)
            await provider.release(held)
        await settle(lambda: bool(mock.bodies("release")))
        assert mock.bodies("release") == [{"reservation_id": held.id}]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"hard_cap": None, "spent": 1, "reserved": 2}, Snapshot(None, 1, 2)),
        ({"spent": 1, "reserved": 2}, Snapshot(None, 1, 2)),
        ({"hard_cap": 0, "spent": 0, "reserved": 0}, Snapshot(0, 0, 0)),
        ({"spent": 1}, None),
        ({"hard_cap": "9", "spent": 1, "reserved": 2}, None),
    ],
    ids=["no cap", "cap left out", "zeros", "a number left out", "a cap in words"],
)
async def test_snapshots(answer: Any, found: Snapshot | None) -> None:
    async with chained() as (mock, provider):
        mock.answers["snapshot"] = (200, answer)
        if found is None:
            with pytest.raises(AuthorityUnavailable):
                await provider.snapshot(MESH)
        else:
            assert await provider.snapshot(MESH) == found
        assert mock.asked == [("snapshot", {"account_id": "mesh-acct", "key_id": "mesh-key-1"})]
