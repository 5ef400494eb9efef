"""One request and its answer: what is the same over a connection of ours and under ASGI."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from helexa.errors import HelexaError
from helexa.http.faults import UpstreamError
from helexa.http.request import Request
from helexa.http.response import Render, Response, Sink, cause_of

Handler = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger("helexa.http")


async def answer(handler: Handler, request: Request, sink: Sink, render: Render) -> bool:
    """Run the handler and write its answer; False if the answer broke off after its head.

    An error before the head becomes an answer, by the request's own ``render`` if its route has
    one. What the request holds is released here, also when this is cancelled.
    """
    try:
        response = await handler(request)
        await response.send(sink)
    except Exception as error:  # the edge: logged, and answered
        _log(request, error)
        await request.release(error)
        if sink.started:
            return False
        await (request.render or render)(error).send(sink)
    except BaseException as error:
        await request.release(error)
        raise
    await request.release(None)
    return True


def _log(request: Request, error: Exception) -> None:
    cause = cause_of(error)
    if isinstance(cause, UpstreamError):
        logger.warning("%s %s: %s (%s)", request.method, request.path, cause, cause.detail)
    elif not isinstance(cause, HelexaError):
        logger.error("%s %s failed", request.method, request.path, exc_info=error)
