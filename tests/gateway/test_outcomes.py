"""The line of a call tells of endings that its status does not show."""

from __future__ import annotations

import json
import logging

import pytest

from tests.gateway.front import BODY, CHAT_PATH, front
from tests.gateway.mock_setups import EVENTS, streaming
from tests.gateway.mocks import CHAT, Reply, mock_neuron
from tests.http.wire import connected, post, settle

pytestmark = pytest.mark.anyio

STREAMED = BODY | {"stream": True}


async def test_a_stream_that_the_drain_cut() -> None:
    """It had begun with 200, and is not said to be ok."""
    async with (
        mock_neuron(streaming(1000, 0.02)) as mock,
        front(mock) as gw,
        connected(gw.server) as peer,
    ):
        await peer.send(post(json.dumps(STREAMED).encode(), path=CHAT_PATH))
        await peer.until(b"token1")
        gw.server.stop(0.0)
        await settle(lambda: bool(gw.outcomes))
        assert (gw.outcomes[0]["status"], gw.outcomes[0]["outcome"]) == (200, "shutdown")
        assert gw.app.cut == 1
        (line,) = [record for record in gw.log if record.name == "helexa.gateway.requests"]
        assert line.levelno == logging.WARNING


PART = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
WORDS = {
    "message": "gateway is shutting down",
    "type": "api_error",
    "code": "shutting_down",
    "param": None,
}


async def cut_after(parts: tuple[bytes, ...], path: str) -> bytes:
    """What a client gets of a stream that stands still after these parts when the drain ends."""
    async with mock_neuron() as mock, front(mock) as gw, connected(gw.server) as peer:
        mock.on(f"POST {path}", Reply(200, parts, EVENTS, then="silence"))
        await peer.send(post(json.dumps(STREAMED | {"input": "Hi"}).encode(), path=path))
        got = await peer.until(parts[-1])
        gw.server.stop(0.0)
        rest = await peer.until(b"\0never\0")
        await settle(lambda: bool(gw.outcomes))
        assert (gw.outcomes[0]["outcome"], gw.app.cut) == ("shutdown", 1)
        return got + rest


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/completions", "/v1/responses"])
async def test_a_stream_that_is_cut_between_two_events_is_told(path: str) -> None:
    told = await cut_after((PART, b":\n\n"), path)
    last = told.rpartition(b":\n\n\r\n")[2]
    length, _, event = last.partition(b"\r\n")
    assert event.endswith(b"\n\n\r\n")  # and no chunk that says that it was all
    assert int(length, 16) == len(event) - 2
    name, _, data = event.decode().rstrip().rpartition("data: ")
    if path == "/v1/responses":
        assert (name, json.loads(data)) == ("event: error\n", WORDS | {"type": "error"})
    else:
        assert (name, json.loads(data)) == ("", {"error": WORDS})


@pytest.mark.parametrize("parts", [(PART, PART[:-1]), (PART, b'data: {"choices'), (b"da", b"ta")])
async def test_a_stream_that_is_cut_inside_of_an_event_is_only_cut(parts: tuple[bytes]) -> None:
    told = await cut_after(parts, CHAT_PATH)
    assert told.endswith(parts[-1] + b"\r\n")
    assert b"error" not in told


async def test_a_stream_of_known_length_is_only_cut() -> None:
    wire = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\n"
    async with mock_neuron() as mock, front(mock) as gw, connected(gw.server) as peer:
        mock.on(CHAT, Reply(wire=wire + PART, then="silence"))
        await peer.send(post(json.dumps(STREAMED).encode(), path=CHAT_PATH))
        await peer.until(PART)
        gw.server.stop(0.0)
        assert await peer.until(b"\0never\0") == b""


async def test_a_stream_of_messages_that_is_cut_is_told_in_the_same_words() -> None:
    async with mock_neuron() as mock, front(mock) as gw, connected(gw.server) as peer:
        mock.on(CHAT, Reply(200, (PART, PART), EVENTS, then="silence"))
        asked = json.dumps(STREAMED | {"max_tokens": 9}).encode()
        await peer.send(post(asked, path="/v1/messages"))
        await peer.until(b"text_delta")
        gw.server.stop(0.0)
        rest = await peer.until(b"\0never\0")
        assert b'"message":"gateway is shutting down"' in rest
        assert rest.endswith(b"\r\n0\r\n\r\n")  # there an error is an end


async def test_a_stream_in_which_a_neuron_says_that_it_failed() -> None:
    failed = b'data: {"error":{"message":"x","type":"api_error","code":null,"param":null}}\n\n'
    async with mock_neuron() as mock, front(mock) as gw:
        mock.on(CHAT, Reply(200, (failed, b"\n"), EVENTS))
        answer = await gw.post(STREAMED)
        assert answer.content == failed + b"\n"
        await settle(lambda: bool(gw.outcomes))
        assert gw.outcomes[0]["outcome"] == "upstream_error"
        assert gw.metric("cortex_request_errors_total")[0].endswith(" 1")
