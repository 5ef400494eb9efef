"""The bodies of requests: what is large is read in a thread, as the event loop has others to serve.

A client may send 64 MiB; to parse that takes seconds, in which no stream would get a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio.to_thread

from helexa.http import parse_json, require_json

if TYPE_CHECKING:
    from helexa.http import Request
    from helexa.neuron.app import Neuron

LARGE_BYTES: Final = 256 * 1024
LARGE: Final = "large body"

Made = TypeVar("Made")


async def read_body(neuron: Neuron, request: Request, make: Callable[[Any], Made]) -> Made:
    """What ``make`` makes of a request's JSON.

    Raises what it raises, UnsupportedMediaType, RequestTooLarge, RequestTimeout, MalformedJson.
    """
    require_json(request.headers)
    parts = [part async for part in request.stream()]
    data = b"".join(parts)
    parts.clear()
    large = request.context[LARGE] = len(data) > LARGE_BYTES
    return await aside(neuron, request, lambda: make(parse_json(data, yielding=large)))


async def aside(neuron: Neuron, request: Request, work: Callable[[], Made]) -> Made:
    """Do what takes the longer the larger the body is, in a thread if that was large."""
    if not request.context[LARGE]:
        return work()
    return await anyio.to_thread.run_sync(work, limiter=neuron.threads.reading)
