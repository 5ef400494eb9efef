"""The way of every inference request: from a prepared job to an answer, streamed or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio.to_thread

from helexa.errors import (
    DeviceError,
    EngineClosed,
    EngineLost,
    HelexaError,
    OutOfMemory,
    VisionUnsupported,
)
from helexa.http import EventStream, Response
from helexa.neuron.story import Story, story_of
from helexa.protocol.envelope import wire_error
from helexa.protocol.json_text import to_json
from helexa.refusals import LowMemory, ModelUnloaded
from helexa.streams import AsyncEventStream
from helexa.text.events import Finish

if TYPE_CHECKING:
    from helexa.http import Request
    from helexa.loaded import Job
    from helexa.neuron.admission import Permit
    from helexa.neuron.app import Neuron
    from helexa.neuron.slots import Slot
    from helexa.protocol.openai.projection import Projection
    from helexa.protocol.sse import Frame
    from helexa.text.events import Event

Made = TypeVar("Made")

JSON = "application/json"
WHOLE_ANSWER_BYTES: Final = 1 << 40
"""More than any answer has: one waits here whole, so that its seat need not wait for its reader."""


def slot_for(neuron: Neuron, request: Request, model_id: str) -> Slot:
    """The slot that a request is for, noted for the log. Raises as `Neuron.serving`."""
    slot = neuron.serving(model_id)
    story_of(request).line.model = slot.id
    return slot


async def answer(
    neuron: Neuron,
    request: Request,
    slot: Slot,
    prepare: Callable[[], Job],
    projection: Projection,
    *,
    stream: bool,
) -> Response:
    """Admit a request, run it, and answer with what the projection makes of its events.

    The head is sent only when the request runs, so that every refusal is a plain answer.
    """
    story = story_of(request)
    preparing = neuron.threads.preparing
    job = await anyio.to_thread.run_sync(placed, slot, prepare, limiter=preparing)
    if neuron.springs(slot):
        slot.host.kill()
        raise slot.unavailable()
    job, claim_mb = slot.check(job, neuron.hardware.free_mb(slot.devices))
    permit = await request.hold(slot.seat(story.line.principal, claim_mb))
    story.waited_s = permit.waited_s
    events = await request.hold(AsyncEventStream(slot.model, job))
    story.runs(len(job.prompt_ids), lambda: events.tokens_read)
    running = Running(slot, story, permit, events, projection)
    try:
        await events.start()
        if not stream:
            return await running.whole()
    except HelexaError as error:
        raise as_refusal(slot, error) from error
    return running.stream()


def placed(slot: Slot, prepare: Callable[[], Made]) -> Made:
    """What ``prepare`` makes; what a model cannot do is said with its name."""
    try:
        return prepare()
    except VisionUnsupported as error:
        error.model_id = slot.id
        raise


@dataclass(frozen=True, slots=True)
class Running:
    """A request that was admitted. Its seat is free as soon as its last event is there."""

    slot: Slot
    story: Story
    permit: Permit
    events: AsyncIterable[Event]
    projection: Projection

    async def whole(self) -> Response:
        """The answer in one piece."""
        self.projection.open()
        async for event in self.events:
            self._push(event)
        return Response(to_json(self.projection.whole()), media_type=JSON)

    def stream(self) -> EventStream:
        """The answer as it comes."""
        return EventStream(
            self.frames(),
            last_words=last_words(self.projection),
            max_buffer_bytes=WHOLE_ANSWER_BYTES,
        )

    async def frames(self) -> AsyncIterator[bytes]:
        """The frames of a streamed answer; one that fails ends with its error."""
        for frame in self.projection.open():
            yield frame.encode()
        try:
            with self.story.watching():
                async for event in self.events:
                    for frame in self._push(event):
                        yield frame.encode()
            last = self.projection.end()
        except HelexaError as error:
            last = self.projection.fail(as_refusal(self.slot, error))
        except Exception as error:  # a fault of ours: told as before the head, and logged above
            for frame in self.projection.fail(error):
                yield frame.encode()
            raise
        finally:
            self.permit.release()
        for frame in last:
            yield frame.encode()

    def _push(self, event: Event) -> list[Frame]:
        if isinstance(event, Finish):
            self.story.finish = event
            self.permit.release()
        return self.projection.push(event)


def last_words(projection: Projection) -> Callable[[HelexaError], bytes]:
    """What ends a stream that the server has to break off."""
    return lambda error: b"".join(frame.encode() for frame in projection.fail(error))


def as_refusal(slot: Slot, error: HelexaError) -> HelexaError:
    """An error of the engine as a client is told of it."""
    match error:
        case EngineLost() | DeviceError():
            return slot.unavailable()
        case EngineClosed():
            return ModelUnloaded(slot.id)
        case OutOfMemory():
            return LowMemory(error.free_mb, slot.limits.rules.floor_mb)
    return error


def render(error: Exception) -> Response:
    """An error as an enveloped answer."""
    told = wire_error(error)
    return Response(to_json(told.body()), told.status, told.headers(), media_type=JSON)


def now() -> int:
    """Seconds since 1970, as answers state when they were made."""
    return int(time.time())
