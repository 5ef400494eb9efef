"""PostgreSQL alone: a server that goes away, a commit whose answer is lost, what is not told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from helexa.gateway.entitlements.book import CommitInDoubt, NewerSchema, StoreFailed
from helexa.gateway.entitlements.budget import Account, Budget
from helexa.gateway.entitlements.postgres import PostgresBook, public_name
from helexa.gateway.entitlements.posting import Lease, Reserve, post
from helexa.gateway.refusals import LedgerUnavailable
from tests.gateway.entitlements.postgres_server import PostgresServer
from tests.gateway.entitlements.stores import (
    ANN,
    PostgresStore,
    account,
    opened,
    rows,
    standing,
    until_standing,
)

pytestmark = pytest.mark.anyio

BUDGET = Budget(1000)
SOCKET = ".s.PGSQL.5432"


class Wire:
    """A socket that passes on what it gets, until it loses a commit's question or its answer."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.lose = ""  # "question" or "answer", once
        self._server = str(server / SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=_pump, args=(server, client), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.lose and b"COMMIT\0" in data:
                    lost, self.lose = self.lose, ""
                    client.shutdown(socket.SHUT_RDWR)  # whatever comes is not for it any more
                    if lost == "answer":
                        server.sendall(data)
                    break
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with source, target, suppress(OSError):
        while data := source.recv(65536):
            with suppress(OSError):
                target.sendall(data)


@contextmanager
def wired(postgres: PostgresServer) -> Iterator[tuple[Wire, PostgresStore, str]]:
    """A wire, the store at its end, and the same store's URL through the wire."""
    url = postgres.database()
    with TemporaryDirectory(dir="/tmp") as folder:
        wire = Wire(postgres.folder, Path(folder))
        with closing(wire):
            yield wire, PostgresStore(url), url.replace(str(postgres.folder), folder)


@pytest.mark.parametrize("lost", ["question", "answer"])
async def test_a_settlement_is_charged_once_whatever_is_lost(
    postgres: PostgresServer, lost: str
) -> None:
    with wired(postgres) as (wire, store, url):
        async with opened(lambda: PostgresBook(url)) as ledger:
            held = [await ledger.reserve(ANN, BUDGET, 100) for _ in range(3)]
            for left, one in zip((2, 1, 0), held, strict=True):
                wire.lose = lost
                ledger.settle(one, 30)
                await until_standing(ledger, (100 * left, 30 * (3 - left)))
                assert wire.lose == ""
        assert account(store) == Account(90, 0)
        with closing(store.open_book()) as book, book.transaction():
            assert list(book.served().values()) == [90]


@pytest.mark.parametrize("lost", ["question", "answer"])
async def test_a_reservation_that_nobody_heard_of_is_undone(
    postgres: PostgresServer, lost: str
) -> None:
    with wired(postgres) as (wire, store, url):
        async with opened(lambda: PostgresBook(url)) as ledger:
            await ledger.reserve(ANN, BUDGET, 100)
            wire.lose = lost
            with pytest.raises(LedgerUnavailable):
                await ledger.reserve(ANN, BUDGET, 50)
            await until_standing(ledger, (100, 0))
            assert len(rows(store)) == 1


def test_a_transaction_that_is_not_over_is_told_from_one_that_is(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.database())
    with closing(PostgresBook(store.url)) as book:
        with psycopg.connect(store.url) as other:
            row = other.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            assert book.outcome(row[0]) == "running"
        assert book.outcome(row[0]) == "committed"
        assert book.outcome("999999999999") == "aborted"  # a server that never heard of it
        with book.transaction():  # and goes on as before
            assert book.accounts(["key"]) == {"key": Account()}


def test_a_connection_that_is_gone_is_made_anew(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.database())
    with closing(PostgresBook(store.url)) as book:
        post(book, [], [Reserve("one", "acct", "key", 5, BUDGET)], 0, Lease("here", 1))
        with psycopg.connect(store.url) as other:
            pid = book._connection.info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(StoreFailed):
            post(book, [], [Reserve("two", "acct", "key", 5, BUDGET)], 0, Lease("here", 1))
        post(book, [], [Reserve("three", "acct", "key", 5, BUDGET)], 0, Lease("here", 1))
    assert [row.id for row in rows(store)] == ["one", "three"]


async def test_a_server_that_goes_and_comes_back(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.database())
    async with opened(store.open_book) as ledger:
        held = await ledger.reserve(ANN, BUDGET, 100)
        postgres.stop()
        try:
            ledger.settle(held, 40)
            with pytest.raises(LedgerUnavailable):
                await ledger.reserve(ANN, BUDGET, 10)
        finally:
            postgres.start()
        await until_standing(ledger, (0, 40))


async def test_two_gateways_that_start_at_once(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.database())
    books: list[PostgresBook] = []
    threads = [
        threading.Thread(target=lambda: books.append(PostgresBook(store.url))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(books) == 4
    for book in books:
        book.close()
    async with opened(store.open_book) as ledger:
        assert await standing(ledger) == (0, 0)


def test_tables_of_a_later_version_are_left_alone(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.database())
    store.open_book().close()
    with psycopg.connect(store.url) as other:
        other.execute("UPDATE helexa_meta SET schema_version = 2")
    with pytest.raises(NewerSchema, match="its schema_version is 2"):
        store.open_book()


def test_a_role_that_may_make_no_tables_needs_none(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.database())
    store.open_book().close()
    with psycopg.connect(store.url) as other:
        (schema,) = other.execute("SELECT current_schema()").fetchone() or ("",)
        role = f"clerk_{schema}"
        for grant in (
            f"CREATE ROLE {role} LOGIN",
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
        ):
            other.execute(grant.encode())
    with closing(PostgresBook(store.url.replace("//postgres@", f"//{role}@"))) as book:
        post(book, [], [Reserve("one", "acct", "key", 5, BUDGET)], 0, Lease("here", 1))
    assert len(rows(store)) == 1


def test_secrets_are_not_told() -> None:
    url = "postgresql://ann:hunter2@db.example:5433/budgets?sslmode=require"
    assert public_name(url) == "postgresql://db.example:5433/budgets"
    for bad in ("postgresql://ann:hunter2@[::1/budgets", "postgresql://ann:hunter2@h/b?x=hunter2"):
        with pytest.raises(StoreFailed) as refused:
            PostgresBook(bad)
        assert "hunter2" not in str(refused.value)
        assert refused.value.__cause__ is None


def test_a_server_that_is_not_there() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(StoreFailed, match="Connection refused") as refused:
        PostgresBook(f"postgresql://ann:hunter2@127.0.0.1:{port}/budgets")
    assert "hunter2" not in str(refused.value)
    assert not isinstance(refused.value, CommitInDoubt)
