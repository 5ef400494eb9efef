"""A ledger in PostgreSQL, which gateways on many machines may share; needs `helexa[postgres]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from helexa.gateway.entitlements.book import (
    SCHEMA_VERSION,
    CommitInDoubt,
    Held,
    NewerSchema,
    Outcome,
    StoreFailed,
    Usage,
)
from helexa.gateway.entitlements.budget import Account

PATIENCE_S = 5
OUTCOMES: dict[str | None, Outcome] = {
    "committed": "committed",
    "aborted": "aborted",
    "in progress": "running",
    None: "unknown",
}
SCHEMA_LOCK = 0x68656C657861
"""Two gateways that start at once must not both make the tables."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS helexa_meta (schema_version BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS helexa_ledger (
  key_id TEXT PRIMARY KEY,
  spent BIGINT NOT NULL,
  reserved BIGINT NOT NULL,
  window_start_ms BIGINT
);
CREATE TABLE IF NOT EXISTS helexa_reservations (
  id TEXT PRIMARY KEY,
  account_id TEXT NOT NULL,
  key_id TEXT NOT NULL,
  amount BIGINT NOT NULL,
  gateway TEXT NOT NULL,
  expires_ms BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS helexa_served_usage (
  account_id TEXT NOT NULL,
  key_id TEXT NOT NULL,
  period TEXT NOT NULL,
  tokens BIGINT NOT NULL,
  PRIMARY KEY (account_id, key_id, period)
);
"""
MAKE = """
INSERT INTO helexa_ledger
SELECT key_id, 0, 0, NULL FROM unnest(%s::text[]) AS new (key_id) ORDER BY key_id
ON CONFLICT DO NOTHING
"""
# In one order everywhere, so that two gateways never wait for each other.
LOCK = """
SELECT pg_current_xact_id()::text, key_id, spent, reserved, window_start_ms FROM helexa_ledger
WHERE key_id = ANY(%s::text[]) ORDER BY key_id FOR UPDATE
"""
ENTER = """
UPDATE helexa_ledger AS old
SET spent = new.spent, reserved = new.reserved, window_start_ms = new.window_start_ms
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
  AS new (key_id, spent, reserved, window_start_ms)
WHERE old.key_id = new.key_id
"""
HOLD = """
INSERT INTO helexa_reservations
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[])
"""
SERVE = """
INSERT INTO helexa_served_usage AS old
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) ORDER BY 1, 2, 3
ON CONFLICT (account_id, key_id, period) DO UPDATE SET tokens = old.tokens + excluded.tokens
"""


class PostgresBook:
    """One connection, made anew when it is lost; no statement takes longer than ``patience_s``."""

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self._parameters = _parameters(url)
        self._patience_s = patience_s
        self._mark = ""
        self._connection = self._connect()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        try:
            connection = psycopg.connect(**self._parameters)
        except psycopg.Error as error:
            raise StoreFailed(_reason(error)) from error
        try:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            # A gateway that is halted inside a transaction must not halt all the others.
            for name in ("statement", "lock", "idle_in_transaction_session"):
                limit = f"SET {name}_timeout = {int(self._patience_s * 1000)}"
                connection.execute(limit.encode())
            connection.commit()
            _prepare(connection)
        except psycopg.Error as error:
            connection.close()
            raise StoreFailed(_reason(error)) from error
        except StoreFailed:
            connection.close()
            raise
        return connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The accounts that are read in it are locked from then on.

        Statements whose answer nobody needs are sent together, which saves waiting for each.
        """
        if self._connection.closed:
            self._connection = self._connect()
        self._mark = ""
        committing = False
        try:
            with self._connection.pipeline():
                yield
                committing = True
                self._connection.commit()
        except psycopg.Error as error:
            self._roll_back()
            if committing and self._mark and self._connection.closed:
                raise CommitInDoubt(_reason(error), self._mark) from error
            raise StoreFailed(_reason(error)) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except psycopg.Error:
            self._connection.close()

    def accounts(self, key_ids: Sequence[str]) -> dict[str, Account]:
        """The accounts of these keys; each has a row from then on."""
        keys = list(key_ids)
        if not keys:
            ((self._mark,),) = self._all("SELECT pg_current_xact_id()::text")
            return {}
        rows = self._all(LOCK, (keys,))
        if len(rows) < len(keys):
            # Nothing is written yet: the rows are made for good, and locked in order again.
            self._connection.execute(MAKE, (keys,))
            self._connection.commit()
            rows = self._all(LOCK, (keys,))
        self._mark = rows[0][0]
        return {key: Account(*account) for _, key, *account in rows}

    def enter(self, accounts: Mapping[str, Account]) -> None:
        """Write these accounts."""
        rows = [
            (key, new.spent, new.reserved, new.window_start_ms) for key, new in accounts.items()
        ]
        self._connection.execute(ENTER, _columns(rows))

    def hold(self, rows: Sequence[Held]) -> None:
        """Add reservations."""
        self._connection.execute(HOLD, _columns(rows))

    def free(self, ids: Sequence[str], expired_ms: int | None = None) -> set[str]:
        """Delete reservations; one that was extended a moment ago is not expired."""
        query = "DELETE FROM helexa_reservations WHERE id = ANY(%s::text[])"
        values: list[Any] = [list(ids)]
        if expired_ms is not None:
            query += " AND expires_ms <= %s"
            values.append(expired_ms)
        return {id for (id,) in self._all(f"{query} RETURNING id", values)}

    def expired(self, now_ms: int) -> list[Held]:
        """Reservations whose time is over."""
        query = "SELECT * FROM helexa_reservations WHERE expires_ms <= %s"
        return [Held(*row) for row in self._all(query, (now_ms,))]

    def extend(self, ids: Sequence[str], expires_ms: int) -> None:
        """Keep reservations until then."""
        query = "UPDATE helexa_reservations SET expires_ms = %s WHERE id = ANY(%s::text[])"
        self._connection.execute(query, (expires_ms, list(ids)))

    def serve(self, tokens: Mapping[Usage, int]) -> None:
        """Add served tokens."""
        self._connection.execute(
            SERVE, _columns([(*usage, more) for usage, more in tokens.items()])
        )

    def served(self) -> dict[Usage, int]:
        """All served tokens."""
        rows = self._all("SELECT account_id, key_id, period, tokens FROM helexa_served_usage")
        return {Usage(*usage): tokens for *usage, tokens in rows}

    def prune(self, period: str) -> None:
        """Forget tokens that were served before this day."""
        query = 'DELETE FROM helexa_served_usage WHERE period COLLATE "C" < %s'
        self._connection.execute(query, (period,))

    def outcome(self, mark: str) -> Outcome:
        """What the server remembers of a transaction."""
        try:
            with self.transaction():
                ((found,),) = self._all("SELECT pg_xact_status(%s::text::xid8)", (mark,))
        except StoreFailed as error:
            if isinstance(error.__cause__, psycopg.errors.InvalidParameterValue):
                return "aborted"  # another server took over, before it had heard of that one
            raise
        return OUTCOMES[found]

    def close(self) -> None:
        """Close the connection."""
        with suppress(psycopg.Error):
            self._connection.close()

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), values).fetchall()


def public_name(url: str) -> str:
    """A database, without the secrets of its URL. Raises StoreFailed."""
    found = _parameters(url)
    host = found.get("host") or found.get("hostaddr") or "localhost"
    return f"postgresql://{host}:{found.get('port') or 5432}/{found.get('dbname') or ''}"


def _parameters(url: str) -> dict[str, Any]:
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error:  # its text may quote the password
        raise StoreFailed("it is not a valid PostgreSQL URL") from None
    defaults = {
        "connect_timeout": PATIENCE_S,
        "application_name": "helexa-gateway",
        "keepalives_idle": 10,
        "tcp_user_timeout": 2 * PATIENCE_S * 1000,
    }
    return {**defaults, **found}


def _prepare(connection: psycopg.Connection[TupleRow]) -> None:
    """Make the tables. Where they are, no right to make tables is needed. Raises NewerSchema."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        there = connection.execute("SELECT to_regclass('helexa_meta') IS NOT NULL").fetchone()
        if there != (True,):
            connection.execute(SCHEMA)
            connection.execute("INSERT INTO helexa_meta VALUES (%s)", (SCHEMA_VERSION,))
        row = connection.execute("SELECT max(schema_version) FROM helexa_meta").fetchone()
    if row is None or row[0] is None or row[0] > SCHEMA_VERSION:
        raise NewerSchema(row[0] if row else None)


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _reason(error: psycopg.Error) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
