"""Clients of a daemon under load: patient ones, slow readers, and some that leave."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

MODEL = "builtin:helexa/tiny"
PRINCIPALS = 6
LONGEST_PROMPT_WORDS = 200
MOST_TOKENS = 60
REFUSED_PAUSE_S = (0.2, 1.0)
SLOW_READ_BYTES = 400
ANSWER_S = 120.0

Manner = Literal["patient", "slow", "leaves running", "leaves early"]
MANNERS: tuple[Manner, ...] = ("patient",) * 5 + ("slow", "leaves running", "leaves early")


@dataclass(slots=True)
class Tally:
    """What became of the requests: ``refused`` by status and code, ``errors`` by what happened.

    ``left_early`` had no head of an answer yet, so that they may have been refused as well.
    """

    sent: int = 0
    served: int = 0
    tokens: int = 0
    left_running: int = 0
    left_early: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_frame_s: list[float] = field(default_factory=list)


class Client:
    """Sends one request after the other, each on a connection of its own."""

    def __init__(self, url: str, tally: Tally, seed: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._tally = tally
        self._random = random.Random(seed)

    async def run(self, until: float) -> None:
        """Ask until ``until`` (of `time.monotonic`); what has begun is brought to its end."""
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._ask(self._random.choice(MANNERS))
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self._tally.errors[type(error).__name__] += 1

    async def _ask(self, manner: Manner) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**16)
        try:
            self._tally.sent += 1
            began = time.monotonic()
            writer.write(self._request())
            head = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            if manner == "leaves early":
                patience_s = self._random.uniform(0.0, 1.0)
                await asyncio.wait([head], timeout=patience_s)
                if not head.done():
                    head.cancel()
                    self._tally.left_early += 1
                    return
            status = int((await head).split(None, 2)[1])
            if status == 200:
                self._tally.first_frame_s.append(time.monotonic() - began)
                await self._read_on(reader, manner)
            else:
                await self._refused(status, reader)
        finally:
            writer.close()

    async def _read_on(self, reader: asyncio.StreamReader, manner: Manner) -> None:
        answer = bytearray()
        leaves_at = self._random.randint(1, 8000) if manner == "leaves running" else None
        size = SLOW_READ_BYTES if manner == "slow" else 2**16
        while piece := await reader.read(size):
            answer += piece
            if leaves_at is not None and len(answer) >= leaves_at:
                self._tally.left_running += 1
                return
            if manner == "slow":
                await asyncio.sleep(0.02)
        self._judge(bytes(answer))

    def _judge(self, answer: bytes) -> None:
        """An answer that was read to its end: a whole stream, or one that broke off."""
        lines = answer.decode().splitlines()
        frames = [line[6:] for line in lines if line.startswith("data: ")]
        if not frames or frames[-1] != "[DONE]":
            last = json.loads(frames[-1]) if frames else {}
            self._tally.errors[f"broken off: {last.get('error', {}).get('code')}"] += 1
            return
        self._tally.served += 1
        self._tally.tokens += json.loads(frames[-2])["usage"]["completion_tokens"]

    async def _refused(self, status: int, reader: asyncio.StreamReader) -> None:
        error = json.loads(await reader.read())["error"]
        if status in (429, 503):
            self._tally.refused[f"{status} {error['code']}"] += 1
        else:
            self._tally.errors[f"{status} {error['code']}"] += 1
        await asyncio.sleep(self._random.uniform(*REFUSED_PAUSE_S))

    def _request(self) -> bytes:
        draw = self._random
        body = {
            "model": MODEL,
            "prompt": f"{draw.random()} " + "word " * draw.randint(1, LONGEST_PROMPT_WORDS),
            "max_tokens": draw.randint(1, MOST_TOKENS),
            "seed": draw.randint(0, 2**31),
            "ignore_eos": True,
            "stream": True,
        }
        data = json.dumps(body).encode()
        who = draw.randint(0, PRINCIPALS)
        known = f"x-helexa-account-id: a{who}\r\nx-helexa-key-id: k\r\n" if who else ""
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: {self._host}\r\nconnection: close\r\n{known}"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


async def ask_for(url: str, clients: int, seconds: float, seed: int) -> Tally:
    """Let so many clients ask for so long, and the last answers come."""
    tally, until = Tally(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(Client(url, tally, seed * 1000 + number).run(until))
    return tally
