"""The limits of the daemon's HTTP server, each as the configuration sets it."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from helexa.http import ServerConfig
from helexa.neuron.app import Neuron
from helexa.neuron.config import Http, NeuronConfig
from helexa.neuron.runtime import Runtime
from tests.neuron.daemons import Daemon
from tests.neuron.plays import Troupe, X, staged

MIB = 2**20
TIGHT = Http(
    max_body_mb=1,
    max_header_kb=4,
    header_timeout_secs=0.5,
    body_timeout_secs=0.8,
    idle_timeout_secs=1.1,
    write_stall_secs=1.4,
)
HEAD = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
ABSENT = json.dumps({"model": "m" * 900_000, "prompt": "x"})


def test_every_limit_is_where_it_belongs() -> None:
    http = Http(
        max_body_mb=3,
        max_header_kb=5,
        max_connections=7,
        header_timeout_secs=11,
        body_timeout_secs=13,
        idle_timeout_secs=17,
        write_stall_secs=19,
    )
    config = NeuronConfig(host="127.0.0.9", port=1234, http=http)
    found = Neuron(config, Runtime(), {}).server_config()
    assert found == ServerConfig(
        host="127.0.0.9",
        port=1234,
        max_body_bytes=3 * MIB,
        max_head_bytes=5 * 1024,
        max_connections=7,
        header_timeout_s=11,
        body_timeout_s=13,
        idle_timeout_s=17,
        write_stall_s=19,
        close_idle_on_drain=False,
    )


@pytest.fixture(scope="module")
def tight(troupe: Troupe) -> Iterator[Daemon]:
    with staged(troupe, models=(), http=TIGHT) as daemon:
        yield daemon


def connect(daemon: Daemon) -> socket.socket:
    host, _, port = daemon.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 30)


def told(peer: socket.socket) -> tuple[int, dict[str, object]]:
    """The status and the error of an answer after which the connection ends."""
    answer = bytearray()
    with suppress(ConnectionResetError):  # of what we sent and nobody read
        while part := peer.recv(65536):
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]


def test_n021_a_body_that_is_declared_too_large(tight: Daemon) -> None:
    with connect(tight) as peer:
        peer.sendall(f"{HEAD}content-length: {MIB + 1}\r\n\r\n".encode())
        status, error = told(peer)
    assert (status, error["code"], error["max_bytes"]) == (413, "request_too_large", MIB)


def test_n021_a_body_that_grows_too_large(tight: Daemon) -> None:
    with connect(tight) as peer:
        peer.sendall(f"{HEAD}transfer-encoding: chunked\r\n\r\n{MIB + 1:x}\r\n".encode())
        with suppress(ConnectionError):
            peer.sendall(b" " * (MIB + 1))
        status, error = told(peer)
    assert (status, error["code"], error["max_bytes"]) == (413, "request_too_large", MIB)


def test_n021_a_body_at_the_limit(tight: Daemon) -> None:
    body = json.dumps({"model": "o/m", "prompt": "x"}).encode().ljust(MIB)
    answer = tight.http.post(
        "/v1/completions", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_n021_a_head_that_is_too_large(tight: Daemon) -> None:
    with connect(tight) as peer:
        peer.sendall(f"GET /health HTTP/1.1\r\nhost: x\r\nx: {'a' * 4096}\r\n\r\n".encode())
        status, error = told(peer)
    assert (status, error["code"]) == (431, "request_headers_too_large")
    padded = tight.http.get("/health", headers={"x": "a" * 3000})
    assert padded.status_code == 200


@pytest.mark.parametrize(
    ("sent", "least_s"),
    [("GET /health HTTP/1.1\r\nhost: ", 0.5), (f"{HEAD}content-length: 9\r\n\r\n{{", 0.8)],
    ids=["head", "body"],
)
def test_n021_a_request_that_stalls(tight: Daemon, sent: str, least_s: float) -> None:
    with connect(tight) as peer:
        peer.sendall(sent.encode())
        began = time.monotonic()
        status, error = told(peer)
        assert time.monotonic() - began > least_s - 0.1
    assert (status, error["code"]) == (408, "request_timeout")


def test_an_idle_connection_is_closed(tight: Daemon) -> None:
    with connect(tight) as peer:
        peer.sendall(b"HEAD /version HTTP/1.1\r\nhost: x\r\n\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        assert peer.recv(1) == b""
        assert time.monotonic() - began > TIGHT.idle_timeout_secs - 0.1


def test_a_client_that_reads_nothing_is_dropped(tight: Daemon) -> None:
    """Each answer repeats the long name that it was asked for, more than any buffer takes."""
    request = f"{HEAD}content-length: {len(ABSENT)}\r\n\r\n{ABSENT}".encode()
    with connect(tight) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reset = select.poll()
        reset.register(peer, 0)
        began = time.monotonic()
        with suppress(ConnectionError):  # where the server reads no further, sending waits
            for _ in range(12):
                peer.sendall(request)
        assert reset.poll(30_000)
        assert time.monotonic() - began > TIGHT.write_stall_secs - 0.1


def test_one_connection_too_many(troupe: Troupe) -> None:
    with staged(troupe, models=(), http=Http(max_connections=2)) as daemon, ExitStack() as peers:
        assert daemon.http.get("/version").status_code == 200  # and its connection stays
        second = peers.enter_context(connect(daemon))
        second.sendall(b"HEAD /version HTTP/1.1\r\nhost: x\r\n\r\n")
        assert second.recv(65536).startswith(b"HTTP/1.1 200 ")
        third = peers.enter_context(connect(daemon))
        answer = third.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        lines = answer.lower().split(b"\r\n")
        assert {b"retry-after: 1", b"connection: close"} <= set(lines)
        assert b'"service_unavailable"' in answer
        assert daemon.http.get("/version").status_code == 200


def test_n022_n025_large_body_ok(troupe: Troupe) -> None:
    """20 MiB that mean nothing, and an answer with the headers that streams have."""
    with staged(troupe) as daemon:
        play = troupe.play("fine")
        padded = {**play, "prompt": "x", "stream": True, "metadata": {"x": "a" * (20 * MIB)}}
        headers = {"x-request-id": "large"}
        answer = daemon.http.post("/v1/completions", json=padded, headers=headers)
        assert answer.status_code == 200
        assert answer.text.endswith("data: [DONE]\n\n")
        expected = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            "x-request-id": "large",
        }
        assert expected.items() <= dict(answer.headers).items()
        named = daemon.http.get(f"/models/{X.replace('/', '%2F')}/endpoint")
        assert named.json() == {"url": daemon.url.replace("127.0.0.1", "localhost")}
        assert len(named.headers["x-request-id"]) == len("req_") + 32
