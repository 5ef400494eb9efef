"""Opening the ledger where the configuration wants it, and what meters by it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helexa.gateway.config import EntitlementsConfig, UpstreamConfig
from helexa.gateway.entitlements import authority, static_keys
from helexa.gateway.entitlements.authority import Authority, UpstreamAuthority
from helexa.gateway.entitlements.book import Book, StoreFailed
from helexa.gateway.entitlements.chain import Chain
from helexa.gateway.entitlements.ledger import Ledger
from helexa.gateway.entitlements.memory import MemoryBook
from helexa.gateway.entitlements.provider import Source
from helexa.gateway.entitlements.served import Reporter
from helexa.gateway.entitlements.sqlite import SqliteBook
from helexa.gateway.entitlements.static_keys import StaticKeys
from helexa.gateway.entitlements.telling import telling
from helexa.gateway.refusals import LedgerUnusable
from helexa.http import Client

FILE = "ledger.db"
SQLITE = "sqlite:///"
POSTGRES = "postgresql://"
NAME_A_FILE = 'name a file with entitlements.ledger = "sqlite:///path"'

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_chain(
    entitlements: EntitlementsConfig,
    upstream: UpstreamConfig,
    client: Client,
    folders: Sequence[Path],
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Chain]:
    """Keys and budgets, as long as the block lasts. Raises LedgerUnusable.

    The ledger that nobody named is in the first of ``folders`` that can be written.
    """
    store = _store(entitlements.ledger, folders)
    ledger = await _opened(store, clock)
    sources: dict[str, Source] = {
        static_keys.BACKEND: StaticKeys(entitlements.keys, ledger),
    }
    reporter = teller = None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(ledger.aclose)
        if upstream.enabled:
            wire = Authority(upstream, client)
            teller = await stack.enter_async_context(telling(wire))
            sources[authority.BACKEND] = UpstreamAuthority(wire, ledger, teller.tell)
            reporter = Reporter(ledger, wire, upstream.served_usage_report_interval_secs)
        chain = Chain(sources, ledger, reporter, teller)
        stack.push_async_callback(chain.flush)
        yield chain


@dataclass(frozen=True, slots=True)
class _Store:
    """Where budgets are kept: a name without secrets, and what to do if it cannot be opened."""

    name: str
    open_book: Callable[[], Book]
    remedy: str = ""


async def _opened(store: _Store, clock: Callable[[], float]) -> Ledger:
    ledger = Ledger(store.open_book, clock=clock)
    try:
        await ledger.start()
    except StoreFailed as error:
        raise LedgerUnusable(store.name, f"{error}; {store.remedy}") from error
    log.info("budgets are kept in %s", store.name)
    return ledger


def _store(where: str | None, folders: Sequence[Path]) -> _Store:
    if where == "memory":
        return _Store("memory", MemoryBook)
    if where is not None and where.startswith(POSTGRES):
        return _postgres(where)
    if where is not None and where.startswith(SQLITE):
        path: Path | None = Path("/", where.removeprefix(SQLITE).lstrip("/"))
    else:
        path = default_path(folders)
    if path is not None:
        return _Store(str(path), partial(SqliteBook, path), f"mend that or {NAME_A_FILE}")
    looked_at = ", ".join(map(str, folders))
    if where is not None:
        reason = f"none of these folders can be written: {looked_at}; {NAME_A_FILE}"
        raise LedgerUnusable(FILE, reason)
    log.warning(
        "budgets are kept in memory and forgotten at exit: none of these folders can be written: "
        "%s; %s",
        *(looked_at, NAME_A_FILE),
    )
    return _Store("memory", MemoryBook)


def _postgres(url: str) -> _Store:
    try:
        from helexa.gateway.entitlements.postgres import PostgresBook, public_name
    except ImportError as error:
        missing = "its driver is missing: pip install 'helexa[postgres]'"
        raise LedgerUnusable("PostgreSQL", missing) from error
    try:
        name = public_name(url)
    except StoreFailed as error:
        raise LedgerUnusable("PostgreSQL", str(error)) from error
    return _Store(name, partial(PostgresBook, url), "start that server or name another one")


def default_path(folders: Sequence[Path]) -> Path | None:
    """Where the ledger is if nobody says: in the first folder that can be written."""
    for folder in folders:
        path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            may_be_written = os.access(path, os.R_OK | os.W_OK) or not path.exists()
        except OSError:
            continue
        if may_be_written and os.access(folder, os.W_OK | os.X_OK):
            return path
    return None
