"""Hosts that allow a process few open files, and servers that are full."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from helexa.daemon.descriptors import affordable, fitted
from helexa.http import ServerConfig
from helexa.http.occasional import Occasional
from helexa.neuron.config import Http, NeuronConfig
from tests.neuron.daemons import started
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
SERVER = """
import logging, anyio
from helexa.http import Response, Server, ServerConfig

logging.basicConfig(level=logging.INFO)

async def handler(request):
    return Response(b"served")

async def main():
    server = Server(handler, ServerConfig(max_connections=1000))
    await server.bind()
    logging.info("listening on %s", server.url)
    await server.serve()

anyio.run(main)
"""


@contextmanager
def limited(folder: Path, soft: int, hard: int, *command: str) -> Iterator[tuple[str, Path]]:
    """A server in a process with so many files; where it listens, and its log."""
    log = folder / "log"
    with log.open("wb") as stderr:
        whole = [sys.executable, "-c", LIMITED, str(soft), str(hard), *command]
        process = subprocess.Popen(whole, stderr=stderr)
    try:
        wait_until(lambda: "listening on " in log.read_text(), 100)
        yield log.read_text().partition("listening on ")[2].split()[0], log
    finally:
        process.kill()
        process.wait(50)


def idle(url: str, stack: ExitStack, count: int) -> list[socket.socket]:
    """Connections of which nothing is asked."""
    at = httpx.URL(url)
    address = (at.host, at.port or 0)
    return [stack.enter_context(socket.create_connection(address, 50)) for _ in range(count)]


def neuron(folder: Path) -> tuple[str, ...]:
    file = folder / "neuron.toml"
    file.write_text('host = "127.0.0.1"\nport = 0\nharnesses = []\n')
    return ("-m", "helexa", "neuron", "-c", str(file))


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    with limited(tmp_path, 64, 2048, *neuron(tmp_path)) as (url, log), ExitStack() as stack:
        idle(url, stack, 100)
        assert httpx.get(f"{url}/health", timeout=50).status_code == 200
        assert "cannot accept" not in log.read_text()
        assert "max_connections" not in log.read_text()


def test_no_more_connections_are_taken_than_the_host_allows(tmp_path: Path) -> None:
    with limited(tmp_path, 64, 164, *neuron(tmp_path)) as (url, log), ExitStack() as stack:
        said = log.read_text()
        assert "WARN" in said
        assert "max_connections is lowered from 1024 to 80" in said
        *_, last = idle(url, stack, 81)
        assert b"503" in last.recv(1000)
        assert "cannot accept" not in log.read_text()


@pytest.mark.parametrize(
    ("wanted", "limit", "affords"),
    [(1024, 1024, 768), (1024, 4096, 1024), (1024, 1344, 1024), (10, 40, 1), (10, 256, 10)],
)
def test_what_a_process_affords(wanted: int, limit: int, affords: int) -> None:
    assert affordable(wanted, limit) == affords


def test_a_limit_that_is_enough_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = ServerConfig(max_connections=7)
    assert fitted(config, 4096) == config
    assert caplog.records == []


def test_a_relay_needs_two_files_for_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    config = ServerConfig(max_connections=1000)
    limits = fitted(config, 2 * (64 + 1000), key="limits.max_connections", each=2)
    assert limits.max_connections == 800
    (told,) = caplog.records
    assert told.getMessage().startswith("limits.max_connections is lowered from 1000 to 800")


def test_a_process_without_descriptors_says_so_once(tmp_path: Path) -> None:
    with limited(tmp_path, 40, 40, "-c", SERVER) as (url, log), ExitStack() as stack:
        peers = idle(url, stack, 60)
        wait_until(lambda: "cannot accept a connection" in log.read_text(), 50)
        for peer in peers[:40]:
            peer.close()
        peers[-1].sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"served" in peers[-1].recv(1000)
        assert log.read_text().count("cannot accept a connection") == 1


def test_what_is_refused_without_a_request_is_counted_and_said_now_and_then() -> None:
    config = NeuronConfig(port=0, harnesses=(), http=Http(max_connections=1))
    with started(config) as at, ExitStack() as stack:
        assert at.http.get("/health").status_code == 200  # its connection stays open
        for peer in idle(at.url, stack, 3):
            assert b"503" in peer.recv(1000)
        labels = {"route": "unknown", "method": "other", "status": "503"}
        assert at.metric("http_requests_total", **labels) == 3
        lines = [line for line in at.log.text().splitlines() if "refused before" in line]
    assert len(lines) == 1
    assert "WARN" in lines[0] and "all 1 connections are in use (1 times)" in lines[0]


def test_occasions() -> None:
    now = [0.0]
    refusals = Occasional(lambda: now[0], 60)
    told = []
    for at in (0, 1, 59, 60, 61, 200):
        now[0] = at
        told.append(refusals.happened())
    assert told == [1, 0, 0, 3, 0, 2]
