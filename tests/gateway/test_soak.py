"""Thousands of requests whose clients leave whenever they like: nothing of them is left over."""

from __future__ import annotations

import gc
import json
import os
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketStream

from helexa.gateway.proxy.call import Call
from tests.gateway.front import CHAT_PATH, Front, key
from tests.gateway.mock_setups import chunk, frame
from tests.gateway.raw_neuron import RawNeuron, head_of, raw_front, raw_neuron
from tests.http.wire import Peer, post, reset, settle

pytestmark = pytest.mark.anyio

REQUESTS: Final = {"asyncio": 2_000, "trio": 500}
AT_ONCE = 48
PATHS = (CHAT_PATH, "/v1/completions", "/v1/responses", "/v1/messages")
KEYS = tuple(key(f"sk-{n}", f"acct-{n}", f"key-{n}") for n in range(3))
EVENTS = head_of(200, {"content-type": "text/event-stream", "connection": "close"})
GONE = (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError)


def tasks_alive() -> int:
    """How many tasks the event loop has."""
    return len(anyio.get_running_tasks())


def open_files(folder: Path) -> set[str]:
    """What this process has open of sockets, and of files in ``folder``; no number comes twice."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was for looking at them
            found.add(os.readlink(descriptor))
    return {name for name in found if name.startswith(("socket:", str(folder)))}


def tear(stream: ByteStream) -> None:
    """Have closing it be a reset, unless it is closed already."""
    assert isinstance(stream, SocketStream)
    with suppress(OSError):
        reset(stream)


# --------------------------------------------------------------------------------------- the neuron


def answer(usage: int) -> bytes:
    """A whole answer that cost so many tokens."""
    counted = {"prompt_tokens": 0, "completion_tokens": usage, "output_tokens": usage}
    message = {"role": "assistant", "content": "x"}
    said = {"id": "1", "model": "m", "choices": [{"message": message}], "usage": counted}
    body = json.dumps(said).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    return head_of(200, fields) + body


def delta(n: int) -> bytes:
    """One event that counts as one token on every wire."""
    choice = {"index": 0, "delta": {"content": f"t{n}"}, "text": "x"}
    return frame(chunk("m", [choice], delta="x"))


class Moody:
    """Answers as the request says; ``served`` counts the tokens that it has sent.

    ``asked`` are the ids of the requests that came.
    """

    def __init__(self, neuron: RawNeuron) -> None:
        self.neuron = neuron
        self.served = 0
        self.asked: set[str] = set()

    async def __call__(self, peer: Peer) -> bool:
        asked = json.loads(self.neuron.bodies.pop())
        head = self.neuron.upstream.heads.pop()
        self.asked.add(head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode())
        mood, size = asked["mood"], asked["size"]
        if mood == "whole":
            self.served += size
            await peer.send(answer(size))
            return True
        if mood == "refuse":
            await peer.send(head_of(size + 400, {"content-length": "2"}) + b"no")
            return True
        if mood == "silent":
            await peer.stream.receive()  # until the gateway leaves
            return False
        await peer.send(EVENTS)
        for n in range(size):
            self.served += 1
            await peer.send(delta(n))
            await anyio.lowlevel.checkpoint()
        if mood == "break":
            tear(peer.stream)
        elif mood == "stall":
            await peer.stream.receive()
        else:
            await peer.send(b"data: [DONE]\n\n")
        return False


# -------------------------------------------------------------------------------------- the clients

MOODS = ("whole", "whole", "stream", "stream", "refuse", "silent", "break", "stall")


class Clients:
    """They ask at random and leave at random.

    ``got`` counts the tokens of answers that they have whole, and must pay for.
    """

    def __init__(self, gw: Front, random: Random, count: int) -> None:
        self.gw = gw
        self.random = random
        self.left = count
        self.got = 0
        self.sent = 0

    async def work(self) -> None:
        while self.left > 0:
            self.left -= 1
            try:
                async with await anyio.connect_tcp("127.0.0.1", self.gw.server.port) as stream:
                    await self.one(Peer(stream))
                    if self.random.random() < 0.4:
                        tear(stream)
            except GONE:
                continue

    async def one(self, peer: Peer) -> None:
        """One connection: a request, or a part of one, then some of the answer."""
        random = self.random
        mood, size = random.choice(MOODS), random.randrange(30)
        wire = self.request(mood, size)
        if random.random() < 0.15:  # half a request, or nothing of it
            await peer.send(wire[: random.randrange(len(wire))])
            await self.dawdle()
            return
        self.sent += 1
        await peer.send(wire)
        if random.random() < 0.1:
            assert isinstance(peer.stream, SocketStream)
            await peer.stream.send_eof()  # which is leaving, too
        if mood in ("silent", "stall") or random.random() < 0.3:
            await self.dawdle()
        if random.random() < 0.3 or mood == "silent":
            return
        most = random.randrange(4000) if random.random() < 0.4 else 10**9
        with anyio.move_on_after(0.02 if mood == "stall" else 20) as patience:
            if await self.read(peer, most) and mood == "whole" and b"Bearer sk-" in wire[:400]:
                self.got += size
        assert mood == "stall" or not patience.cancelled_caught

    def request(self, mood: str, size: int) -> bytes:
        random = self.random
        asked: dict[str, Any] = {"model": "test-model", "max_tokens": 100, "mood": mood}
        asked["size"], asked["stream"] = size, mood in ("stream", "break", "stall")
        asked["messages"] = [{"role": "user", "content": "x" * random.choice([1, 1, 50_000])}]
        fields = (
            [f"authorization: Bearer sk-{random.randrange(3)}"] if random.random() < 0.9 else []
        )
        return post(json.dumps(asked).encode(), *fields, path=random.choice(PATHS))

    async def dawdle(self) -> None:
        await anyio.sleep(self.random.choice([0, 0, 0.001, 0.01]))

    async def read(self, peer: Peer, most: int) -> bool:
        """Read so many bytes; whether the answer is whole."""
        head = await peer.until(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length:
            most = min(most, int(length))
            while len(peer.buffer) < most:
                peer.buffer += await peer.stream.receive()
            return len(peer.buffer) == int(length)
        while len(peer.buffer) < most and not peer.buffer.endswith(b"0\r\n\r\n"):
            peer.buffer += await peer.stream.receive()
        return peer.buffer.endswith(b"0\r\n\r\n")


# --------------------------------------------------------------------------------------- afterwards


def metric(gw: Front, name: str, label: str) -> int:
    """The sum of a counter over the series with this label."""
    return sum(int(line.rpartition(" ")[2]) for line in gw.metric(name) if label in line)


async def check_nothing_left(gw: Front, moody: Moody, clients: Clients) -> None:
    await settle(lambda: gw.server.connections == 0, 20)
    assert (gw.node().own, gw.server.running) == ({}, 0)
    assert gw.server.config.body_budget is not None
    assert gw.server.config.body_budget.held_bytes == 0
    assert gw.state.client.idle <= 64
    spent = 0
    for one in KEYS:
        assert one.key_id is not None
        assert gw.state.provider is not None
        await settle_ledger(gw, one.account_id, one.key_id)
        snapshot = await gw.spent(one.account_id, one.key_id)
        assert snapshot.reserved == 0
        assert snapshot.spent == metric(gw, "cortex_spend_tokens_total", one.key_id)
        spent += snapshot.spent
    assert 0 < clients.got <= spent <= moody.served
    told = [line["request_id"] for line in gw.outcomes]
    assert len(told) == len(set(told))
    assert moody.asked <= set(told)
    assert len(moody.asked) > clients.sent // 4


async def settle_ledger(gw: Front, account: str, key_id: str) -> None:
    """Wait until what is owed to the ledger is written."""
    with anyio.fail_after(10):
        while (await gw.spent(account, key_id)).reserved:  # noqa: ASYNC110  # a ledger has no event
            await anyio.sleep(0.01)


def count_of(kind: type) -> int:
    """How many objects of a kind there are in memory."""
    gc.collect()
    return sum(type(item) is kind for item in gc.get_objects())


async def test_nothing_is_left_of_clients_that_leave(anyio_backend: str, tmp_path: Path) -> None:
    calls = count_of(Call)  # of tests before this one, and collected, which may close files
    tasks, files = tasks_alive(), open_files(tmp_path)
    ledger = f"sqlite://{tmp_path / 'ledger.db'}"
    async with raw_neuron() as neuron:
        moody = Moody(neuron)
        neuron.talk = moody
        async with raw_front(neuron, keys=KEYS, entitlements={"ledger": ledger}) as gw:
            clients = Clients(gw, Random(5), REQUESTS[anyio_backend])
            async with anyio.create_task_group() as crowd:
                for _ in range(AT_ONCE):
                    crowd.start_soon(clients.work)
            await check_nothing_left(gw, moody, clients)
            assert count_of(Call) <= calls
    await settle(lambda: tasks_alive() <= tasks)
    await settle(lambda: open_files(tmp_path) <= files)
