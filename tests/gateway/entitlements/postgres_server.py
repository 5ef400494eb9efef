"""A PostgreSQL server of our own, as long as a block lasts."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.waiting import wait_until

PLACES = ("/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt")


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, which Debian does not put on the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [path.parent for place in PLACES for path in Path(place).glob("*/bin/initdb")]
    return max(folders, default=None)


@dataclass
class PostgresServer:
    """Reached through a socket in ``folder``; each `database` is a schema of its own."""

    folder: Path
    command: list[str]
    identity: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    numbers: Iterator[int] = field(default_factory=count)

    def url(self, schema: str = "public", folder: Path | None = None) -> str:
        host = f"host={folder or self.folder}"
        return f"postgresql://postgres@/postgres?{host}&options=-csearch_path%3D{schema}"

    def database(self) -> str:
        """The URL of an empty one."""
        schema = f"test_{os.getpid()}_{next(self.numbers)}"
        with psycopg.connect(self.url()) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        return self.url(schema)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, **self.identity)
        wait_until(self._answers, 60)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """At once, as if the machine had lost its power."""
        if self.process is not None:
            self.process.send_signal(3)
            self.process.wait(30)
            self.process = None


@contextmanager
def postgres_server(bin: Path) -> Iterator[PostgresServer]:
    # It refuses to run as root, and pytest's folders are closed to everybody else.
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        users = {user.pw_name: user for user in pwd.getpwall()}
        other = users.get("postgres") or users["nobody"]
        identity = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="helexa-pg-"))
    try:
        if identity:
            os.chown(folder, identity["user"], identity["group"])
        data = folder / "data"
        initdb = [bin / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run(
            [*initdb, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, **identity
        )
        options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off"}
        options |= {"max_connections": "50", "shared_buffers": "16MB"}
        command = [str(bin / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        server = PostgresServer(folder, command, identity)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
