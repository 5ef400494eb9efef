"""A ledger in a file, which several gateways of one machine may share."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

from helexa.gateway.entitlements.book import (
    SCHEMA_VERSION,
    Held,
    NewerSchema,
    Outcome,
    StoreFailed,
    Usage,
)
from helexa.gateway.entitlements.budget import Account

BUSY_S = 5.0
LOOK_S = 1.0
RETRY_S = 0.01
LOG_PAGES = 8192
"""The log's length, in pages, at which it is merged into the file, which waits for the disk."""

# A commit writes every page that it has touched, whole: small pages are what makes it quick. Tables
# without row ids keep a row in the tree of its key, which is one page less per row.
SCHEMA = """
CREATE TABLE IF NOT EXISTS helexa_meta (schema_version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS helexa_ledger (
  key_id TEXT PRIMARY KEY,
  spent INTEGER NOT NULL,
  reserved INTEGER NOT NULL,
  window_start_ms INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS helexa_reservations (
  id TEXT PRIMARY KEY,
  account_id TEXT NOT NULL,
  key_id TEXT NOT NULL,
  amount INTEGER NOT NULL,
  gateway TEXT NOT NULL,
  expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS helexa_served_usage (
  account_id TEXT NOT NULL,
  key_id TEXT NOT NULL,
  period TEXT NOT NULL,
  tokens INTEGER NOT NULL,
  PRIMARY KEY (account_id, key_id, period)
) WITHOUT ROWID;
"""
ENTER = "REPLACE INTO helexa_ledger VALUES {rows}"
HOLD = "INSERT INTO helexa_reservations VALUES {rows}"
SERVE = (
    "INSERT INTO helexa_served_usage VALUES {rows} ON CONFLICT (account_id, key_id, period) "
    "DO UPDATE SET tokens = tokens + excluded.tokens"
)
HELD = "SELECT group_concat(id) FROM helexa_reservations WHERE id IN ({ids})"
FREE = "DELETE FROM helexa_reservations WHERE id IN ({ids})"
MOST_ROWS = 128
"""Of six values each, that is fewer than the 999 which any SQLite takes."""

log = logging.getLogger(__name__)


class SqliteBook:
    """One connection, in WAL mode: readers never wait, and a writer waits ``busy_s`` at most.

    With ``synchronous=NORMAL`` a commit is in the log file, though the disk may not have it yet.
    So it survives whatever happens to this process, SIGKILL included; if the machine loses its
    power, the file is sound, and only what the last moments spent may be missing. Waiting for the
    disk at every commit would cost each request milliseconds.
    """

    def __init__(self, path: Path, busy_s: float = BUSY_S, look_s: float = LOOK_S) -> None:
        try:
            _make_private(path)
            self._connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
            self._place = _Place(path, look_s)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(_reason(error)) from error
        self._execute = self._connection.execute
        self._busy_s = busy_s
        self._known: dict[str, Account | None] = {}
        self._known_version = 0
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise StoreFailed(_reason(error)) from error
        except StoreFailed:
            self.close()
            raise

    def _prepare(self) -> None:
        self._execute("PRAGMA page_size = 1024")
        if self._write_ahead() != "wal":
            raise StoreFailed("it has no write-ahead log there; put it on a local disk")
        self._execute("PRAGMA synchronous = NORMAL")
        self._execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if self._version() != SCHEMA_VERSION:
            with self.transaction():
                for statement in SCHEMA.split(";"):
                    self._execute(statement)
                if self._version() is None:
                    self._execute("INSERT INTO helexa_meta VALUES (?)", (SCHEMA_VERSION,))

    def _write_ahead(self) -> str:
        """Ask for a write-ahead log; tell the mode that the file has then.

        SQLite itself does not wait for this lock: of two that open a new file at once, each reads
        it and then wants to write, and one is told at once that it is locked.
        """
        give_up = time.monotonic() + self._busy_s
        while True:
            try:
                mode: str
                (mode,) = self._execute("PRAGMA journal_mode = WAL").fetchone()
                return mode
            except sqlite3.OperationalError as error:
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > give_up:
                    raise
            time.sleep(RETRY_S)

    def _version(self) -> int | None:
        """The schema of the file, None if it has none yet. Raises NewerSchema."""
        table = "SELECT 1 FROM sqlite_master WHERE name = 'helexa_meta'"
        if self._execute(table).fetchone() is None:
            return None
        found: int | None
        (found,) = self._execute("SELECT max(schema_version) FROM helexa_meta").fetchone()
        if found is not None and found > SCHEMA_VERSION:
            raise NewerSchema(found)
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The file is locked for other writers from the first moment on."""
        self._place.check()
        try:
            self._execute("BEGIN IMMEDIATE")
            yield
            self._execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                self._use_less()
            raise StoreFailed(_reason(error)) from error
        except BaseException:
            self._roll_back()
            raise

    def _use_less(self) -> None:
        """Merge the log into the file, after which its space can be written again."""
        with suppress(sqlite3.Error):
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _roll_back(self) -> None:
        # Some failures have undone everything already; a commit that failed is never in doubt.
        self._known.clear()
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._execute("ROLLBACK")

    def accounts(self, key_ids: Sequence[str]) -> dict[str, Account]:
        """The accounts of these keys: as they were left, unless another gateway wrote since."""
        (version,) = self._execute("PRAGMA data_version").fetchone()
        if version != self._known_version:
            self._known.clear()
            self._known_version = version
        query = "SELECT spent, reserved, window_start_ms FROM helexa_ledger WHERE key_id = ?"
        for key in key_ids:
            if key not in self._known:
                row = self._execute(query, (key,)).fetchone()
                self._known[key] = row and Account(*row)
        return {key: known for key in key_ids if (known := self._known[key]) is not None}

    def enter(self, accounts: Mapping[str, Account]) -> None:
        """Write these accounts."""
        self._known.update(accounts)
        self._insert(
            ENTER,
            [(key, new.spent, new.reserved, new.window_start_ms) for key, new in accounts.items()],
        )

    def hold(self, rows: Sequence[Held]) -> None:
        """Add reservations."""
        self._insert(HOLD, rows)

    def free(self, ids: Sequence[str], expired_ms: int | None = None) -> set[str]:
        """Delete reservations; nobody else can have extended them meanwhile."""
        found: set[str] = set()
        for start in range(0, len(ids), MOST_ROWS):
            some = ids[start : start + MOST_ROWS]
            # A round number of values, some of them twice, so that few statements are compiled.
            size = 1 << (len(some) - 1).bit_length()
            values = [*some, *[some[0]] * (size - len(some))]
            (held,) = self._execute(_listing(HELD, size), values).fetchone()
            if held:
                found.update(held.split(","))
                self._execute(_listing(FREE, size), values)
        return found

    def expired(self, now_ms: int) -> list[Held]:
        """Reservations whose time is over."""
        query = "SELECT * FROM helexa_reservations WHERE expires_ms <= ?"
        return [Held(*row) for row in self._execute(query, (now_ms,))]

    def extend(self, ids: Sequence[str], expires_ms: int) -> None:
        """Keep reservations until then."""
        self._connection.executemany(
            "UPDATE helexa_reservations SET expires_ms = ? WHERE id = ?",
            [(expires_ms, id) for id in ids],
        )

    def serve(self, tokens: Mapping[Usage, int]) -> None:
        """Add served tokens."""
        self._insert(SERVE, [(*usage, more) for usage, more in tokens.items()])

    def served(self) -> dict[Usage, int]:
        """All served tokens."""
        rows = self._execute("SELECT account_id, key_id, period, tokens FROM helexa_served_usage")
        return {Usage(*usage): tokens for *usage, tokens in rows}

    def prune(self, period: str) -> None:
        """Forget tokens that were served before this day."""
        self._execute("DELETE FROM helexa_served_usage WHERE period < ?", (period,))

    def _insert(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows by few statements of round numbers of rows.

        Python gives its lock away for each step of SQLite and then waits for it again, while the
        event loop has it: two dozen steps more per commit would double what a request costs.
        """
        start = 0
        while left := len(rows) - start:
            size = min(MOST_ROWS, 1 << (left.bit_length() - 1))
            some = rows[start : start + size]
            self._execute(_inserting(statement, size, len(rows[0])), [*chain(*some)])
            start += size

    def outcome(self, mark: str) -> Outcome:
        """No commit is ever in doubt."""
        return "unknown"

    def close(self) -> None:
        """The last to leave a file merges its log into it."""
        with suppress(sqlite3.Error):
            self._connection.close()


class _Place:
    """Whether a path still leads to the file that was opened there; looked up now and then.

    A file that was deleted can be written to all the same, but nobody else sees it: another
    gateway, or this one after a restart, would find another file there and grant every cap once
    more. So it is used no longer, and used again if it is put back.
    """

    def __init__(self, path: Path, look_s: float) -> None:
        self._path = path.absolute()
        self._look_s = look_s
        self._opened = _identity(self._path)
        self._lost = False
        self._due_s = 0.0

    def check(self) -> None:
        """Raises StoreFailed if it does not."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        lost = self._opened is None or _identity(self._path) != self._opened
        if lost and not self._lost:
            log.error(
                "the ledger %s was deleted or replaced while it was in use, so keys are refused: "
                "put that file back, or restart the gateway to go on with what is there now, where "
                "all that was spent may be missing",
                self._path,
            )
        elif self._lost and not lost:
            log.warning("the ledger %s is back", self._path)
        self._lost = lost
        if lost:
            raise StoreFailed(f"{self._path} was deleted or replaced")
        self._due_s = now_s + self._look_s


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from others; None if there is none."""
    try:
        found = path.stat()
    except OSError:  # whatever the reason is, nobody else finds the file there either
        return None
    return found.st_dev, found.st_ino


@lru_cache
def _inserting(statement: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=", ".join([row] * rows))


@lru_cache
def _listing(statement: str, size: int) -> str:
    return statement.format(ids=", ".join("?" * size))


def _make_private(path: Path) -> None:
    """Make the file, if there is none, for its owner alone; SQLite's other files inherit that.

    A file that exists is not opened here: closing it would free the locks that another connection
    of this process has on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _reason(error: sqlite3.Error | OSError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
