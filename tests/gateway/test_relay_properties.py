"""Whatever bytes a neuron sends, in whatever pieces: the client gets these bytes, and at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helexa.http.framing import LAST_CHUNK, chunk
from tests.gateway.front import BODY, CHAT_PATH, Front
from tests.gateway.raw_neuron import RawNeuron, cut, head_of, raw_front, raw_neuron
from tests.http.wire import Answer, Peer, connected, post, settle, soon

pytestmark = pytest.mark.anyio

PLAIN = json.dumps(BODY).encode()
STREAMED = json.dumps(BODY | {"stream": True}).encode()
EVENTS = "text/event-stream"
PATHS = (CHAT_PATH, "/v1/completions", "/v1/responses")
SIZES = st.lists(st.integers(1, 97), max_size=5)


class Rig:
    """A gateway before a raw neuron. No dataclass, of which hypothesis would print everything."""

    def __init__(self, gw: Front, neuron: RawNeuron) -> None:
        self.gw = gw
        self.neuron = neuron


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with raw_neuron() as neuron, raw_front(neuron) as gw:
        yield Rig(gw, neuron)


# ----------------------------------------------------------------------------------- what is sent


class Sent:
    """An answer: its body, and the bytes that carry it, in the pieces in which they go out."""

    def __init__(self, body: bytes, pieces: list[bytes], closes: bool, framing: str) -> None:
        self.body = body
        self.pieces = pieces
        self.closes = closes
        self.framing = framing

    @property
    def status(self) -> int:
        return int(b"".join(self.pieces)[9:12])

    def __repr__(self) -> str:
        shown = [piece[:100] for piece in self.pieces[:20]]
        return f"{self.framing}, {len(self.body)} bytes, {len(self.pieces)} pieces: {shown}"


def chunked(body: bytes, sizes: list[int], extension: bytes, trailer: bytes) -> bytes:
    """The body in chunks."""
    parts = [b"%X%b\r\n%b\r\n" % (len(part), extension, part) for part in cut(body, sizes)]
    return b"".join(parts) + b"0" + extension + b"\r\n" + trailer + b"\r\n"


@st.composite
def sent(draw: st.DrawFn, bodies: st.SearchStrategy[bytes], kind: str) -> Sent:
    """These bodies in any framing, status and pieces."""
    body = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    fields = {"content-type": kind}
    wire = body
    if framing == "length":
        fields["content-length"] = str(len(body))
    elif framing == "chunked":
        fields["transfer-encoding"] = "chunked"
        extension = draw(st.sampled_from([b"", b";x", b';a="b;c"']))
        wire = chunked(body, draw(SIZES), extension, draw(st.sampled_from([b"", b"x-t: 1\r\n"])))
    status = draw(st.sampled_from([200, 200, 200, 201, 400, 404, 429, 500, 503, 599]))
    pieces = cut(head_of(status, fields) + wire, draw(SIZES))
    closes = framing == "close" or draw(st.booleans())
    return Sent(body, pieces, closes, framing)


def events() -> st.SearchStrategy[bytes]:
    """What may come in an event stream, or instead of one."""
    end = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b"", b"\0"])
    value = {"choices": [{"delta": {"content": "é\u2028"}}], "usage": {"prompt_tokens": 3}}
    text = st.sampled_from(
        [
            *(b"data: " + json.dumps(value).encode(), b'data: {"error":{"message":"x"}}'),
            *(b"data: [DONE]", b"data:", b": comment", b"event: x", b"id: \0", b"\xff\xfe\xc3"),
            *(b"data: " + b"x" * 70_000, b"y" * 70_000, b'"content":"', b"\xef\xbb\xbfdata: 1"),
        ]
    )
    return st.lists(st.tuples(text | st.binary(max_size=30), end), max_size=8).map(
        lambda pairs: b"".join(a + b for a, b in pairs)
    )


async def whole(rig: Rig, path: str, asked: bytes, *, old: bool) -> Answer:
    """What a client gets; an old one speaks HTTP/1.0, and has the end of the connection only."""
    wire = post(asked, path=path)
    async with connected(rig.gw.server) as peer:
        await peer.send(wire.replace(b"HTTP/1.1", b"HTTP/1.0", 1) if old else wire)
        answer = await peer.answer()
        assert peer.buffer == b""
        await settle(lambda: bool(rig.gw.outcomes))
        return answer


CHECKS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


async def check_same_bytes(rig: Rig, path: str, asked: bytes, one: Sent, old: bool) -> None:
    rig.neuron.sends(one.pieces, then_close=one.closes)
    del rig.neuron.bodies[:], rig.gw.log[:]

    answer = await whole(rig, path, asked, old=old)

    assert (answer.status, answer.body) == (one.status, one.body)
    assert rig.neuron.bodies == [asked]
    if one.framing == "length":
        assert answer.header("content-length") == str(len(one.body))
    assert rig.gw.outcomes[0]["outcome"] in ("ok", "upstream_status", "upstream_error")
    assert not rig.gw.node().own


@CHECKS
@given(st.sampled_from(PATHS), sent(st.binary(max_size=400), "application/json"), st.booleans())
async def test_any_answer_is_the_same_bytes(rig: Rig, path: str, one: Sent, old: bool) -> None:
    await check_same_bytes(rig, path, PLAIN, one, old)


@CHECKS
@given(st.sampled_from(PATHS), sent(events(), EVENTS), st.booleans())
async def test_any_event_stream_is_the_same_bytes(
    rig: Rig, path: str, one: Sent, old: bool
) -> None:
    await check_same_bytes(rig, path, STREAMED, one, old)


@CHECKS
@given(sent(events(), EVENTS), st.integers(0, 10**6))
async def test_what_breaks_off_is_never_whole(rig: Rig, one: Sent, at: int) -> None:
    """The client gets a beginning of the bytes, perhaps an error event, and no end."""
    wire = b"".join(one.pieces)
    start = wire.index(b"\r\n\r\n") + 4
    if one.framing == "close" or len(wire) == start:
        return  # what ends with its connection is whole whenever that is
    rig.neuron.sends([wire[: start + at % (len(wire) - start)]])

    async with connected(rig.gw.server) as peer:
        await peer.send(post(STREAMED, "connection: close", path=CHAT_PATH))
        got = await peer.until(b"\0never\0")

    head, _, rest = got.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 502 "):
        assert b"upstream_connection_error" in rest  # nothing of it was passed on
    elif one.framing == "length":
        assert len(rest) < len(one.body)
        assert one.body.startswith(rest)
    else:
        chunks, ended = dechunked(rest)
        content = b"".join(chunks)
        told = content.rfind(b'data: {"error":{"message":"upstream')
        assert not ended
        assert one.body.startswith(content if told < 0 else content[:told])


def dechunked(data: bytes) -> tuple[list[bytes], bool]:
    """The chunks in the data, and whether they have an end."""
    found = []
    while data:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if size == 0:
            return found, True
        found.append(data[:size])
        data = data[size + 2 :]
    return found, False


# ------------------------------------------------------------------------------------- the moment

FRAMINGS = {
    "chunked": {"transfer-encoding": "chunked"},
    "length": {"content-length": "4"},
    "close": {},
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("path", PATHS)
async def test_the_first_byte_is_not_held_back(rig: Rig, framing: str, path: str) -> None:
    """The neuron goes on only when the client has what was sent."""
    head = head_of(200, {"content-type": EVENTS, **FRAMINGS[framing]})
    has_head, has_first = anyio.Event(), anyio.Event()

    async def talk(peer: Peer) -> bool:
        await peer.send(head)
        await soon(has_head)  # a head that waits for a body is passed on, too
        for part in (b"a", b"bcd"):
            await peer.send(chunk(part) if framing == "chunked" else part)
            await soon(has_first)
        await peer.send(LAST_CHUNK if framing == "chunked" else b"")
        return False

    rig.neuron.talk = talk
    async with connected(rig.gw.server) as peer:
        await peer.send(post(STREAMED, path=path))
        assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        has_head.set()
        assert await peer.until(b"a")
        has_first.set()
        assert b"bcd" in await peer.until(b"bcd")


async def test_the_first_delta_of_a_message_is_not_held_back(rig: Rig) -> None:
    has_first = anyio.Event()
    delta = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'

    async def talk(peer: Peer) -> bool:
        await peer.send(head_of(200, {"content-type": EVENTS}) + delta % b"one")
        await soon(has_first)
        await peer.send(delta % b"two" + b"data: [DONE]\n\n")
        return False

    rig.neuron.talk = talk
    asked = json.dumps(BODY | {"stream": True, "max_tokens": 5}).encode()
    async with connected(rig.gw.server) as peer:
        await peer.send(post(asked, path="/v1/messages"))
        assert b'"text":"one"' in await peer.until(b'"one"')
        has_first.set()
        assert b'"text":"two"' in await peer.until(b'"two"')


async def test_a_slow_client_slows_only_its_own_neuron(rig: Rig) -> None:
    """One reads nothing of 100 MB, another one gets 20 MB from the same neuron meanwhile."""
    part, most = b"x" * 50_000, {b"slow": 100_000_000, b"fast": 20_000_000}
    sent = dict.fromkeys(most, 0)

    async def talk(peer: Peer) -> bool:
        who = b"slow" if b"slow" in rig.neuron.bodies[-1] else b"fast"
        await peer.send(head_of(200, {"content-type": EVENTS}))
        while sent[who] < most[who]:
            await peer.send(part)
            sent[who] += len(part)
        return False

    rig.neuron.talk = talk
    async with connected(rig.gw.server) as slow, connected(rig.gw.server) as fast:
        await slow.send(post(STREAMED.replace(b"Hi", b"slow"), path=CHAT_PATH))
        await settle(lambda: sent[b"slow"] > 0)
        await fast.send(post(STREAMED, path=CHAT_PATH))
        got = 0
        with anyio.fail_after(20):
            while got < most[b"fast"]:
                got += len(await fast.stream.receive())
        assert sent[b"slow"] < 30_000_000  # what the system itself keeps, on both sides
