"""The way of every inference request: from a prepared job to an answer, streamed or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio.to_thread

from helexa.errors import DeviceError, EngineClosed, EngineLost, HelexaError
from helexa.http import EventStream, Response, json_response
from helexa.neuron.admission import principal_of
from helexa.protocol.envelope import wire_error
from helexa.protocol.json_text import to_json
from helexa.refusals import ModelUnloaded
from helexa.streams import AsyncEventStream

if TYPE_CHECKING:
    from helexa.http import Request
    from helexa.loaded import Job
    from helexa.neuron.app import Neuron
    from helexa.neuron.slots import Slot
    from helexa.protocol.openai.projection import Projection

JSON = "application/json"
PRINCIPAL = ("x-helexa-account-id", "x-helexa-key-id")


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
    job = await anyio.to_thread.run_sync(prepare)
    headers = {name: request.headers.get(name) or "" for name in PRINCIPAL}
    principal = principal_of(headers, trusted=neuron.config.trust_principal_headers)
    await request.hold(slot.door.enter(principal, slot.check(job)))
    events = await request.hold(AsyncEventStream(slot.model, lambda: job))
    try:
        await events.start()
        if stream:
            return EventStream(frames(slot, events, projection), last_words=last_words(projection))
        projection.open()
        async for event in events:
            projection.push(event)
    except (EngineLost, DeviceError, EngineClosed) as error:
        raise as_refusal(slot, error) from error
    return json_response(projection.whole())


async def frames(
    slot: Slot, events: AsyncEventStream, projection: Projection
) -> AsyncIterator[bytes]:
    """The frames of a streamed answer; one that fails ends with its error."""
    for frame in projection.open():
        yield frame.encode()
    try:
        async for event in events:
            for frame in projection.push(event):
                yield frame.encode()
        for frame in projection.end():
            yield frame.encode()
    except HelexaError as error:
        for frame in projection.fail(as_refusal(slot, error)):
            yield frame.encode()


def last_words(projection: Projection) -> Callable[[HelexaError], bytes]:
    """What ends a stream that the server has to break off."""
    return lambda error: b"".join(frame.encode() for frame in projection.fail(error))


def as_refusal(slot: Slot, error: HelexaError) -> HelexaError:
    """An error of the engine as a client is told of it."""
    if isinstance(error, EngineLost | DeviceError):
        return slot.unavailable()
    if isinstance(error, EngineClosed):
        return ModelUnloaded(slot.id)
    return error


def render(error: Exception) -> Response:
    """An error as an enveloped answer."""
    told = wire_error(error)
    return Response(to_json(told.body()), told.status, told.headers(), media_type=JSON)


def now() -> int:
    """Seconds since 1970, as answers state when they were made."""
    return int(time.time())
