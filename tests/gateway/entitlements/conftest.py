"""The three stores, and a PostgreSQL server that is started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.entitlements.postgres_server import PostgresServer, binaries, postgres_server
from tests.gateway.entitlements.stores import MEMORY, PostgresStore, SqliteStore, Store


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    bin = binaries()
    if bin is None:
        pytest.skip("needs a PostgreSQL server (Debian: apt install postgresql), none found")
    with postgres_server(bin) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "memory":
        return MEMORY
    return durable(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind that outlasts its process."""
    return durable(request, tmp_path)


def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return SqliteStore(tmp_path / "ledger.db")
    return PostgresStore(request.getfixturevalue("postgres").database())
