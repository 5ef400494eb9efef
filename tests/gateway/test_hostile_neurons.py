"""Neurons that answer what no neuron should: nothing of it gets further than to a 502 or 503."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from helexa.gateway.poller import poll_once
from tests.gateway.front import BODY, CHAT_PATH, Front, front
from tests.gateway.mock_setups import HEALTH, reporting
from tests.gateway.mocks import CHAT, Reply, as_json, mock_neuron, model
from tests.gateway.raw_neuron import raw_front, raw_neuron
from tests.http.wire import Peer, settle

pytestmark = pytest.mark.anyio

ENDPOINT = "GET /models/{id}/endpoint"
MESSAGES = "/v1/messages"
EVIL = "127.0.0.2"
LENGTH = b"content-length: 2\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + LENGTH


def head(*lines: bytes) -> bytes:
    """An answer with these fields and a body of two bytes."""
    return b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\nok"


HEADS = {
    "carriage return in a value": head(b"x-a: a\rx-evil: 1", LENGTH[:-2]),
    "line feed in a value": head(b"x-a: a\nx-evil: 1", LENGTH[:-2]),
    "nul in a value": head(b"x-a: a\0x-evil: 1", LENGTH[:-2]),
    "nul in a name": head(b"x-\0a: x-evil", LENGTH[:-2]),
    "line feeds only": b"HTTP/1.1 200 OK\nx-evil: 1\ncontent-length: 2\n\nok",
    "folded": head(b"x-a: a", b" x-evil: 1", LENGTH[:-2]),
    "space in a name": head(b"x evil: 1", LENGTH[:-2]),
    "space before the colon": head(b"x-evil : 1", LENGTH[:-2]),
    "no colon": head(b"x-evil", LENGTH[:-2]),
    "no name": head(b": x-evil", LENGTH[:-2]),
    "two lengths": head(b"content-length: 2", b"x-evil: 1", b"content-length: 3"),
    "a list of lengths": head(b"x-evil: 1", b"content-length: 2, 2"),
    "a signed length": head(b"x-evil: 1", b"content-length: +2"),
    "an endless length": head(b"x-evil: 1", b"content-length: " + b"9" * 5000),
    "length and chunks": head(b"x-evil: 1", LENGTH[:-2], b"transfer-encoding: chunked"),
    "an unknown coding": head(b"x-evil: 1", b"transfer-encoding: xchunked"),
    "two codings": head(b"x-evil: 1", b"transfer-encoding: gzip, chunked"),
    "chunks in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\nx-evil: 1\r\n\r\n0\r\n\r\n",
    "no chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-evil: 1\r\n\r\nzz\r\nok\r\n",
    "another version": b"HTTP/2.0 200 OK\r\nx-evil: 1\r\ncontent-length: 2\r\n\r\nok",
    "a small status": b"HTTP/1.1 099 OK\r\nx-evil: 1\r\ncontent-length: 2\r\n\r\nok",
    "a large status": b"HTTP/1.1 1000 OK\r\nx-evil: 1\r\ncontent-length: 2\r\n\r\nok",
    "another protocol": b"HTTP/1.1 101 Evil\r\nupgrade: x-evil\r\n\r\n",
    "a flood of hints": b"HTTP/1.1 103 Hints\r\nlink: x-evil\r\n\r\n" * 20_000 + OK + b"\r\nok",
    "many fields": head(*(b"x-evil: %d" % n for n in range(200)), LENGTH[:-2]),
    "a long field": head(b"x-evil: " + b"a" * 70_000, LENGTH[:-2]),
    "a long line": b"HTTP/1.1 200 " + b"x-evil" * 20_000,
    "no http": b"SSH-2.0-x-evil\r\n\r\n",
    "binary": b"\x16\x03\x01x-evil\r\n\r\n",
}


@pytest.mark.parametrize("path", [CHAT_PATH, MESSAGES])
async def test_a_head_of_two_meanings_is_no_answer(path: str) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        for name, wire in HEADS.items():
            mock.on(CHAT, Reply(wire=wire))
            with anyio.fail_after(2):
                answer = await gw.post(BODY | {"max_tokens": 5}, path)
            told = answer.json()["error"]
            assert (answer.status_code, told["code"]) == (502, "upstream_malformed_response"), name
            assert told["message"] == "malformed upstream response"
            assert "evil" not in f"{answer.headers} {answer.text}", name
        await settle(lambda: len(gw.outcomes) == len(HEADS))
        assert {line["outcome"] for line in gw.outcomes} == {"upstream_error"}
        assert (gw.state.client.idle, gw.node().own) == (0, {})


@pytest.mark.parametrize("pause_s", [0.0, 0.05], ids=["with it", "later"])
async def test_what_follows_an_answer_is_no_answer_to_the_next(pause_s: float) -> None:
    evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    async with raw_neuron() as neuron, raw_front(neuron) as gw:

        async def talk(peer: Peer) -> bool:
            await peer.send(OK + b"\r\nok" + (b"" if pause_s else evil))
            await anyio.sleep(pause_s)
            await peer.send(evil if pause_s else b"")
            return True

        neuron.talk = talk
        for _ in range(5):
            assert (await gw.post()).text == "ok"
            await anyio.sleep(2 * pause_s)


# ----------------------------------------------------------------------------- where a model is


@dataclass
class Elsewhere:
    """A port of another address, where somebody counts who comes."""

    port: int
    came: int = 0

    @property
    def url(self) -> str:
        return f"http://{EVIL}:{self.port}"


@asynccontextmanager
async def elsewhere() -> AsyncIterator[Elsewhere]:
    """It answers everything with 200."""
    listener = await anyio.create_tcp_listener(local_host=EVIL)
    place = Elsewhere(listener.extra(SocketAttribute.local_port))

    async def serve(stream: SocketStream) -> None:
        place.came += 1
        async with stream:
            await stream.receive()
            await stream.send(OK + b"\r\n{}")

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield place
        tasks.cancel_scope.cancel()


def named(place: Elsewhere, own: str) -> list[str]:
    """Ways to name that place, or none at all."""
    host = f"{EVIL}:{place.port}"
    return [
        *(f"http://{host}", f"HTTP://{host}", f"//{host}", f"http:{host}", f"http:/{host}", host),
        *(f"http://{own}@{host}", f"http://{own}:80@{host}/", f"http://{host}#@{own}"),
        *(f"http://{host}?@{own}", f"http://{host}\\@{own}", f"http://{own}\\@{host}"),
        *(f"http://{own}%40{host}", f"http://{own}%2f@{host}", f"http://{own},{host}"),
        *(f"http://127.2:{place.port}", f"http://2130706434:{place.port}"),
        *(f"http://0x7f.0.0.2:{place.port}", f"http://[::ffff:{EVIL}]:{place.port}"),
        *(f"http://{EVIL}.:{place.port}", f"http://{own}.evil.example", "http://metadata.internal"),
        *("file:///etc/passwd", "unix:///run/docker.sock", "ftp://127.0.0.1", "javascript:1"),
        *("", "http://", "http:///x", "http://127.0.0.1:0", "http://127.0.0.1:99999", "\x00"),
        *(f"http://{own}:1\r\nx: y", f"http://{own}:1/ HTTP/1.1", f"http://{own}/{'x' * 3000}"),
        f"http://１２７.0.0.2:{place.port}",
    ]


async def check_refused(gw: Front) -> None:
    for path in (CHAT_PATH, MESSAGES):
        answer = await gw.post(BODY | {"max_tokens": 5}, path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["error"]["message"] == (
            "failed to resolve inference endpoint for model 'test-model' on node 'mock-node'"
        )


async def test_a_neuron_that_names_another_host_is_not_believed() -> None:
    async with elsewhere() as place, mock_neuron() as mock, front(mock) as gw:
        for url in named(place, "127.0.0.1"):
            mock.on(ENDPOINT, as_json({"url": url}))
            await check_refused(gw)
        assert (place.came, mock.hits, gw.node().endpoints) == (0, 0, {})
        told = [r for r in gw.log if "allow_hosts" in r.getMessage()]
        assert 0 < len(told) < 100
        assert all("\r" not in r.getMessage() and "\0" not in r.getMessage() for r in told)


async def test_unless_its_operator_allows_that() -> None:
    async with elsewhere() as place, mock_neuron() as mock, front(mock) as gw:
        gw.node().allow_hosts = (EVIL,)
        mock.on(ENDPOINT, as_json({"url": place.url}))
        answer = await gw.post()
        assert (answer.status_code, answer.text, place.came) == (200, "{}", 1)


async def test_no_redirect_is_followed() -> None:
    """Neither of a question about a model, nor of a request: that one the client may follow."""
    async with elsewhere() as place, mock_neuron() as mock, front(mock) as gw:
        for status in (301, 302, 303, 307, 308):
            away = Reply(status, (b"",), (("location", place.url),))
            mock.on(ENDPOINT, away)
            await check_refused(gw)
            mock.on(ENDPOINT, as_json({"url": mock.url}))
            mock.on(CHAT, away)
            answer = await gw.post()
            assert (answer.status_code, answer.headers["location"]) == (status, place.url)
            gw.node().endpoints.clear()
        assert place.came == 0


@pytest.mark.parametrize(
    "answer",
    [
        Reply(parts=(b'{"url":"' + b"x" * 2_000_000 + b'"}',)),
        Reply(parts=tuple([b"x" * 65536] * 100)),
        Reply(parts=(b"[" * 100_000,)),
        Reply(parts=(b'{"url":{"url":"http://127.0.0.1"}}',)),
        Reply(parts=(b"\xff\xfe",)),
    ],
    ids=["large", "endless", "deep", "no text", "no json"],
)
async def test_a_place_that_cannot_be_read(answer: Reply) -> None:
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(ENDPOINT, answer)
        await check_refused(gw)
        assert mock.hits == 0


# ------------------------------------------------------------------------------ what it says it has

ODD = ["a\nb", "a\rb", "\x1b[2J", "", "x" * 600, "\u2028"]
NAMES = ['say "hi"', "back\\slash", "{node}", "a,b=c", "ünïcode", "../../etc/passwd", "a b", "%0a"]


async def test_names_of_models_stay_names() -> None:
    """In lists, in metrics, in paths to the neuron and in the log."""
    said: list[dict[str, Any]] = [model(name) for name in (*ODD, *NAMES)]
    busy = [{"id": name, "in_flight": 1, "queue_depth": 2} for name in (*ODD, *NAMES)]
    async with (
        mock_neuron(reporting(said, HEALTH | {"models": busy})) as mock,
        front(mock, seeded=False) as gw,
    ):
        await poll_once(gw.state)
        listed = [entry["id"] for entry in (await gw.http.get("/v1/models")).json()["data"]]
        assert listed == sorted(NAMES)
        for name in NAMES:
            assert (await gw.post(model=name)).status_code == 200
        assert [seen.model for seen in mock.seen(ENDPOINT)] == NAMES
        text = gw.state.metrics.text().decode()
        label = r'"(?:[^"\\\n]|\\["\\n])*"'
        line = re.compile(rf"# .*|\w+(?:\{{\w+={label}(?:,\w+={label})*\}})? [-+.\de]+")
        assert all(line.fullmatch(found) for found in text.splitlines())
        counted = gw.metric("cortex_requests_total")
        assert len(counted) == len(NAMES)
        assert any(r"say \"hi\"" in found for found in counted)


async def test_an_answer_that_is_no_answer_to_a_message() -> None:
    """What is translated must be understood: what cannot be is a 502, never half of it."""
    odd: list[Reply] = [
        Reply(parts=(b"",)),
        Reply(parts=(b"null",)),
        Reply(parts=(b"[" * 100_000,)),
        Reply(parts=(b'{"choices":[]}',)),
        Reply(parts=(b'{"choices":[{"message":5}]}',)),
        Reply(parts=(b"\x1f\x8b\x08\x00",), headers=(("content-encoding", "gzip"),)),
        Reply(204),
    ]
    async with mock_neuron() as mock, front(mock) as gw:
        for reply in odd:
            mock.on(CHAT, reply)
            answer = await gw.post(BODY | {"max_tokens": 5}, MESSAGES)
            assert answer.status_code == 502
            assert answer.json()["error"]["message"] == "malformed upstream response"
