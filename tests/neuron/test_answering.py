"""An admitted request: its seat, its reader, its end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import anyio
import pytest

from helexa.errors import EngineLost, HelexaError
from helexa.neuron.admission import Admission
from helexa.neuron.api.answering import Running
from helexa.neuron.config import AdmissionConfig
from helexa.neuron.request_line import RequestLine
from helexa.neuron.slots import Slot
from helexa.neuron.story import Story
from helexa.protocol.openai.completion_answer import CompletionAnswer
from helexa.protocol.openai.projection import Head
from helexa.refusals import ModelRecovering
from helexa.text.events import Event, Finish, Text, Usage
from tests.neuron.callers import settle

pytestmark = pytest.mark.anyio

PIECE = "x" * 100_000
USAGE = Usage(1, 30, 0, 0, 1.0, 1.0, 1)


@dataclass
class Script:
    """Events as a test gives them, then an error if there is one."""

    events: list[Event]
    error: HelexaError | None = None

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self.events:
            yield event
        if self.error is not None:
            raise self.error


class SlowReader:
    """A client's side that takes the head and nothing more."""

    head_only = False
    last_words: Any = None
    started = True

    async def start(self, status: int, fields: object, first: bytes = b"") -> None: ...

    async def write(self, data: bytes) -> None:
        await anyio.sleep_forever()

    async def end(self) -> None: ...


class LostSlot:
    """The part of a slot that tells why it cannot serve."""

    id = "m"

    def unavailable(self) -> ModelRecovering:
        return ModelRecovering(self.id, 3)


@pytest.mark.parametrize(
    "script",
    [
        Script([Text(PIECE)] * 30 + [Finish("length", USAGE)]),
        Script([Text(PIECE)] * 30, EngineLost("it died")),
    ],
    ids=["finished", "failed"],
)
async def test_a_seat_does_not_wait_for_its_reader(script: Script) -> None:
    door = Admission("m", AdmissionConfig())
    story = Story(line=RequestLine(request_id="r", surface="completions"), surface="completions")
    projection = CompletionAnswer(Head("id", "m", 0))
    running = Running(cast("Slot", LostSlot()), story, await door.acquire(None), script, projection)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running.stream().send, cast("Any", SlowReader()))
        await settle()
        assert door.report().in_flight == 0
        assert (story.finish is None) == (script.error is not None)
        assert story.error is script.error
        tasks.cancel_scope.cancel()


async def test_both_modes_write_the_same_json() -> None:
    odd = "\ud800 ů\u2028"
    bodies = []
    for read in ("whole", "stream"):
        door = Admission("m", AdmissionConfig())
        story = Story(
            line=RequestLine(request_id="r", surface="completions"), surface="completions"
        )
        projection = CompletionAnswer(Head("id", "m", 0))
        script = Script([Text(odd), Finish("stop", USAGE)])
        slot = cast("Slot", LostSlot())
        running = Running(slot, story, await door.acquire(None), script, projection)
        if read == "whole":
            bodies.append((await running.whole()).body)
        else:
            frames = [frame async for frame in running.frames()]
            bodies.append(frames[0])
    told = [json.loads(body.removeprefix(b"data: "))["choices"][0]["text"] for body in bodies]
    assert told[0] == told[1]
    assert "ů" in told[0]


async def test_a_released_permit_does_not_move() -> None:
    door = Admission("m", AdmissionConfig())
    kept, released = await door.acquire("a/k"), await door.acquire(None)
    released.release()
    new = door.renewed()
    for permit in (kept, released):
        permit.move(new)
    assert (door.report().in_flight, new.report().in_flight) == (0, 1)
    assert (kept.held, released.held) == (True, False)
    kept.release()
    assert new.report().in_flight == 0
