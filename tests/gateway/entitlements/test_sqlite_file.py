"""The ledger's file: whose it is, what it must be, and what is said if it cannot be had."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from helexa.gateway.entitlements.book import NewerSchema, StoreFailed
from helexa.gateway.entitlements.budget import Budget
from helexa.gateway.entitlements.posting import Lease, Reserve, post
from helexa.gateway.entitlements.sqlite import SqliteBook

LEASE = Lease("here", 900_000)
ONE = Reserve("one", "acct", "key", 10, Budget(100))


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(SqliteBook(path)) as book:
        post(book, [], [ONE], 0, LEASE)
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    path.chmod(0o644)
    SqliteBook(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_open_a_new_file_at_once(tmp_path: Path) -> None:
    """SQLite does not wait here: whoever comes second while a log is set up is told so at once."""
    for round_ in range(20):
        with ThreadPoolExecutor(8) as threads:
            together = Barrier(8)

            def come(path: Path, together: Barrier = together) -> None:
                together.wait()
                SqliteBook(path).close()

            for opened in [threads.submit(come, tmp_path / f"{round_}.db") for _ in range(8)]:
                opened.result()


def test_a_file_that_stays_locked_is_not_waited_for_without_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreFailed, match="database is locked"):
            SqliteBook(path, busy_s=0.05)
        other.execute("COMMIT")
    SqliteBook(path, busy_s=0.05).close()


def test_its_tables_are_as_documented(tmp_path: Path) -> None:
    SqliteBook(tmp_path / "ledger.db").close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file.execute("SELECT * FROM helexa_meta").fetchall() == [(1,)]
        columns = {
            table: [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert columns == {
        "helexa_meta": ["schema_version"],
        "helexa_ledger": ["key_id", "spent", "reserved", "window_start_ms"],
        "helexa_reservations": [
            *("id", "account_id", "key_id", "amount", "gateway", "expires_ms"),
        ],
        "helexa_served_usage": ["account_id", "key_id", "period", "tokens"],
    }


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteBook(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE helexa_meta SET schema_version = 2")
    with pytest.raises(NewerSchema, match="its schema_version is 2, this program knows 1"):
        SqliteBook(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Buy bread, and then some more bread. " * 100)
    with pytest.raises(StoreFailed, match="file is not a database"):
        SqliteBook(text)
    assert text.read_text().startswith("Buy bread")
    with pytest.raises(StoreFailed, match="No such file or directory"):
        SqliteBook(tmp_path / "missing" / "ledger.db")
    with pytest.raises(StoreFailed, match="unable to open database file"):
        SqliteBook(tmp_path)


def test_a_connection_takes_no_locks_from_another_one(tmp_path: Path) -> None:
    """Opening and closing a file frees all POSIX locks that the process has on it."""
    path = tmp_path / "ledger.db"
    with closing(SqliteBook(path)) as first, first.transaction():
        SqliteBook(path).close()
        other = SqliteBook(path, 0.01)
        with closing(other), pytest.raises(StoreFailed, match="database is locked"):
            post(other, [], [ONE], 0, LEASE)


def test_a_full_disk_undoes_everything_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    with closing(SqliteBook(tmp_path / "ledger.db")) as book:
        post(book, [], [ONE], 0, LEASE)
        (pages,) = book._connection.execute("PRAGMA page_count").fetchone()
        book._connection.execute(f"PRAGMA max_page_count = {pages}")
        crowd = [Reserve(f"id-{i:09}", "acct", "key", 0, Budget(100)) for i in range(200)]
        with pytest.raises(StoreFailed, match="full"):
            post(book, [], crowd, 0, LEASE)
        with book.transaction():
            assert [row.id for row in book.expired(2**62)] == ["one"]
        book._connection.execute("PRAGMA max_page_count = 1000000")
        post(book, [], crowd, 0, LEASE)
        with book.transaction():
            assert len(book.expired(2**62)) == 201


def test_it_is_closed_while_its_file_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, aside = tmp_path / "ledger.db", tmp_path / "aside.db"
    with closing(SqliteBook(path, look_s=0.0)) as book:
        post(book, [], [ONE], 0, LEASE)
        path.rename(aside)
        for _ in range(2):
            with pytest.raises(StoreFailed, match=r"ledger\.db was deleted or replaced"):
                post(book, [], [ONE._replace(id="two")], 0, LEASE)
        (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert str(path) in told.getMessage()
        assert "put that file back, or restart the gateway" in told.getMessage()
        path.write_bytes(aside.read_bytes())  # the same in all but name: not what is written to
        with pytest.raises(StoreFailed, match="replaced"):
            post(book, [], [ONE._replace(id="two")], 0, LEASE)
        aside.rename(path)
        post(book, [], [ONE._replace(id="three")], 0, LEASE)
        assert "is back" in caplog.text
        with book.transaction():
            assert [row.id for row in book.expired(2**62)] == ["one", "three"]


def test_a_file_that_is_gone_is_noticed_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(SqliteBook(path)) as book:
        path.unlink()
        until = time.monotonic() + 10
        with pytest.raises(StoreFailed, match="deleted"):
            while time.monotonic() < until:
                time.sleep(0.1)
                with book.transaction():
                    assert book.expired(0) == []


def test_an_old_file_at_its_end_does_no_harm_to_the_new_one(tmp_path: Path) -> None:
    """It is closed after another gateway has made a new one of the same name."""
    path = tmp_path / "ledger.db"
    old = SqliteBook(path, look_s=0.0)
    post(old, [], [ONE], 0, LEASE)
    for file in tmp_path.iterdir():
        file.unlink()
    with closing(SqliteBook(path)) as new:
        post(new, [], [ONE._replace(id="new")], 0, LEASE)
        old.close()
        post(new, [], [ONE._replace(id="newer")], 0, LEASE)
    with closing(SqliteBook(path)) as found, found.transaction():
        assert [row.id for row in found.expired(2**62)] == ["new", "newer"]
