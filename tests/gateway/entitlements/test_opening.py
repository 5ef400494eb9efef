"""Where a ledger is opened, and what is said if it cannot be; keys as they are listed."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from helexa.errors import ConfigError
from helexa.gateway.catalogue_file import open_catalogue
from helexa.gateway.config import EntitlementsConfig, KeyConfig, UpstreamConfig, WindowConfig
from helexa.gateway.config_layers import load_config
from helexa.gateway.entitlements.chain import Chain
from helexa.gateway.entitlements.opening import open_provider
from helexa.gateway.entitlements.places import default_path
from helexa.gateway.entitlements.provider import Principal, Snapshot
from helexa.gateway.entitlements.sqlite import SqliteBook
from helexa.gateway.refusals import LedgerUnusable
from helexa.gateway.run import run_gateway
from helexa.http import Client
from helexa.refusals import InsufficientQuota, RateLimited

pytestmark = pytest.mark.anyio

KEY = KeyConfig("sk-secret", "acct")


@asynccontextmanager
async def provider(
    ledger: str | None,
    environ: Mapping[str, str] | None = None,
    *keys: KeyConfig,
    system_folder: Path = Path("/proc/nowhere"),
) -> AsyncIterator[Chain]:
    settings = EntitlementsConfig(keys=keys or (KEY,), ledger=ledger)
    async with (
        Client() as client,
        open_provider(
            settings, UpstreamConfig(), environ or {}, client, system_folder=system_folder
        ) as found,
    ):
        assert found is not None
        yield found


async def spend(found: Chain, tokens: int = 5) -> Snapshot:
    who = await found.resolve("sk-secret")
    assert who is not None
    await found.settle(await found.reserve(who, 10), tokens)
    return await found.snapshot(who)


async def test_without_keys_there_is_no_ledger(tmp_path: Path) -> None:
    async with (
        Client() as client,
        open_provider(
            *(EntitlementsConfig(), UpstreamConfig()),
            *({"STATE_DIRECTORY": str(tmp_path)}, client),
        ) as found,
    ):
        assert found is None
    assert os.listdir(tmp_path) == []


async def test_g157_a_named_file_lasts(tmp_path: Path) -> None:
    for times in (1, 2):
        async with provider(f"sqlite://{tmp_path}/my ledger.db") as found:
            assert await spend(found) == Snapshot(None, 5 * times, 0)
    assert (tmp_path / "my ledger.db").stat().st_mode & 0o777 == 0o600


async def test_memory_is_forgotten() -> None:
    for _ in range(2):
        async with provider("memory") as found:
            assert await spend(found) == Snapshot(None, 5, 0)


@pytest.mark.parametrize("ledger", [None, "sqlite"])
@pytest.mark.parametrize(
    ("environ", "file"),
    [
        ({"STATE_DIRECTORY": "{}/state:/elsewhere", "HOME": "{}"}, "state/ledger.db"),
        ({"HOME": "{}"}, ".local/state/helexa/ledger.db"),
    ],
    ids=["systemd", "home"],
)
async def test_a_file_where_it_is_looked_for(
    tmp_path: Path, ledger: str | None, environ: dict[str, str], file: str
) -> None:
    there = {name: value.format(tmp_path) for name, value in environ.items()}
    async with provider(ledger, there) as found:
        await spend(found)
    assert (tmp_path / file).exists()


def test_the_first_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unwritable = [Path("/proc/nowhere"), tmp_path / "file"]
    first = tmp_path / "deep" / "first"
    assert default_path([*unwritable, first, tmp_path]) == first / "ledger.db"
    assert first.stat().st_mode & 0o777 == 0o700
    assert default_path([tmp_path, first]) == tmp_path / "ledger.db"
    assert default_path(unwritable) is None


async def test_nowhere_to_write(caplog: pytest.LogCaptureFixture) -> None:
    async with provider(None) as found:
        assert await spend(found) == Snapshot(None, 5, 0)
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "kept in memory and forgotten at exit" in warning.getMessage()
    assert "/proc/nowhere" in warning.getMessage()
    with pytest.raises(LedgerUnusable, match="none of these folders can be written: /proc/nowhere"):
        async with provider("sqlite"):
            pass


async def test_ledgers_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("Buy bread. " * 1000)
    SqliteBook(tmp_path / "newer").close()
    newer = SqliteBook(tmp_path / "newer")
    newer._connection.execute("UPDATE helexa_meta SET schema_version = 9")
    newer.close()
    for name, reason in (
        ("notes", "file is not a database; mend that or name a file with "),
        ("missing/ledger", "No such file or directory; "),
        ("newer", "its schema_version is 9, this program knows 1: a later version made it; "),
    ):
        with pytest.raises(LedgerUnusable) as refused:
            async with provider(f"sqlite://{tmp_path}/{name}"):
                pass
        text = str(refused.value)
        assert text.startswith(f"entitlements.ledger: cannot open {tmp_path}/{name}: {reason}")
        assert "sk-secret" not in text


async def test_a_gateway_without_its_ledger_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(
        f"""
        neurons = []
        [entitlements]
        keys = [{{ key = "sk-secret", account_id = "acct" }}]
        ledger = "sqlite://{tmp_path}/missing/ledger.db"
        """
    )
    loaded = load_config(tmp_path / "gateway.toml", environ={})
    with pytest.raises(ConfigError) as refused:
        await run_gateway(loaded, open_catalogue(loaded), {})
    assert str(refused.value).startswith(
        f"failed to load config from '{tmp_path}/gateway.toml': entitlements.ledger: cannot open "
        f"{tmp_path}/missing/ledger.db: No such file or directory; "
    )


async def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "helexa.gateway.entitlements.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerUnusable, match=r"pip install 'helexa\[postgres\]'"):
        async with provider("postgresql://ann:hunter2@db/budgets"):
            pass


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(LedgerUnusable) as refused:
        async with provider("postgresql://ann:hunter2@/budgets?host=/nowhere&port=5"):
            pass
    assert "cannot open postgresql:///nowhere:5/budgets: " in str(refused.value)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(LedgerUnusable, match="not a valid PostgreSQL URL") as refused:
        async with provider("postgresql://ann:hunter2@[h/budgets"):
            pass
    assert "hunter2" not in str(refused.value)


def keys(**more: Any) -> list[KeyConfig]:
    return [KeyConfig("sk-secret", "acct-a", "key-balance", **more), KeyConfig("sk-two", "acct-b")]


async def test_g154_unknown_key() -> None:
    async with provider("memory", None, *keys()) as found:
        assert await found.resolve("sk-secret") == Principal("acct-a", "key-balance")
        assert await found.resolve("sk-two") == Principal("acct-b", "acct-b")
        for unknown in ("sk-nope", "", "sk-secret ", "é\udc80"):
            assert await found.resolve(unknown) is None
        assert await found.snapshot(Principal("nobody", "nobody")) == Snapshot()


@pytest.mark.parametrize("rolling", [False, True], ids=["g147_balance", "g148_rolling"])
async def test_g147_g148_caps(rolling: bool) -> None:
    window = WindowConfig("rolling", 3600) if rolling else WindowConfig()
    async with provider("memory", None, *keys(hard_cap=10, window=window)) as found:
        who = await found.resolve("sk-secret")
        assert who is not None
        with pytest.raises(RateLimited if rolling else InsufficientQuota) as refused:
            await found.reserve(who, 1000)
        assert refused.value.status == 429
        assert refused.value.retry_after_s == (3600 if rolling else None)
        assert await found.snapshot(who) == Snapshot(10, 0, 0)


async def test_keys_of_one_name_share_the_last_ones_budget() -> None:
    listed = [KeyConfig(f"sk-{cap}", "acct", "team", hard_cap=cap) for cap in (1000, 30)]
    async with provider("memory", None, *listed) as found:
        first, second = [await found.resolve(f"sk-{cap}") for cap in (1000, 30)]
        assert first is not None
        assert second is not None
        await found.reserve(first, 20)
        with pytest.raises(InsufficientQuota, match=r"\(20 requested, 10 available\)"):
            await found.reserve(second, 20)
        assert await found.snapshot(first) == Snapshot(30, 0, 20)
