"""Sending a request to a neuron, and once more to another one where the first did not take it.

Whether there is a second attempt is decided by `second_reason`; it is made only while nothing of an
answer has gone to the client, which is a matter of structure here: the answer is returned whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from helexa.errors import HelexaError
from helexa.gateway.endpoints import endpoint_url, forget_endpoint
from helexa.gateway.fleet import Node
from helexa.gateway.metrics import RetryReason
from helexa.gateway.poller import poll_soon
from helexa.gateway.proxy.call import Call
from helexa.gateway.refusals import EndpointResolveFailed, Recovering
from helexa.gateway.router import Route, another_replica, resolve
from helexa.gateway.state import State
from helexa.http import Asking, Headers, UpstreamResponse
from helexa.http.faults import UpstreamError, UpstreamUnreachable
from helexa.http.headers import Field

RETRY_WITHIN_S = 60.0
KEEP_BYTES = 64 * 1024
KEEP_S = 5.0
LOGGED_CHARACTERS = 600

log = logging.getLogger(__name__)


class Sending(NamedTuple):
    """What is sent: ``body`` and ``fields`` for a replica, as ids and bearers differ by node."""

    path: str
    body: Callable[[Route], Awaitable[bytes]]
    fields: Callable[[Node], list[Field]]
    head_timeout_s: float


@dataclass(slots=True)
class Answer:
    """An answer of a neuron, as far as it was read: ``prefix``, then ``rest`` if more will come.

    ``sent_at`` and ``head_at`` are when it was asked for, and when its head came. The call that it
    belongs to closes it.
    """

    route: Route
    status: int
    headers: Headers
    sent_at: float
    head_at: float
    prefix: bytes = b""
    rest: UpstreamResponse | None = None
    asking: Asking | None = None

    def take_prefix(self) -> bytes:
        """What was read of the body already; `rest` does not give it again."""
        prefix, self.prefix = self.prefix, b""
        return prefix

    async def keep(self) -> bool:
        """Read a short body to its end, and let its connection go; False if it is not short.

        Raises UpstreamError if the body breaks off.
        """
        if self.rest is None:
            return True
        with anyio.move_on_after(KEEP_S):
            async for part in self.rest:
                self.prefix += part
                if len(self.prefix) > KEEP_BYTES:
                    return False
            self.rest = None
            await self.close()
            return True
        return False

    async def close(self) -> None:
        """Let the connection go, for another request if this answer is complete."""
        asking, self.asking = self.asking, None
        if asking is not None and not asking.give_back():
            with anyio.CancelScope(shield=True):  # that waits for nobody
                await asking.__aexit__()


async def dispatch(state: State, call: Call, route: Route, sending: Sending) -> Answer:
    """The answer that the client gets.

    Raises the first attempt's error where there is no second one, or the second's.
    """
    began = state.clock()
    answer, error = await attempt(state, call, route, sending)
    reason = await second_reason(state, answer, error)
    if reason is None:
        return outcome(answer, error)
    other = None
    with anyio.move_on_after(began + RETRY_WITHIN_S - state.clock()):  # it may wait for a load
        other = await second_route(state, call, route, reason)
    if other is None:
        return outcome(answer, error)
    call.rerouted(other)
    if answer is not None:
        try:
            if not await answer.keep():
                call.routed(route)  # for as long as the rest of it takes
                return answer
        except UpstreamError:  # a refusal all the same, but nothing to fall back to
            await answer.close()
            answer = None
    state.metrics.retried(route.model, route.node.name, reason)
    second, second_error = await attempt(state, call, other, sending)
    if second is None and answer is not None:
        return answer
    return outcome(second, second_error)


def outcome(answer: Answer | None, error: HelexaError | None) -> Answer:
    """The answer if there is one. Raises the error if not."""
    if answer is not None:
        return answer
    assert error is not None
    raise error


async def second_reason(
    state: State, answer: Answer | None, error: HelexaError | None
) -> RetryReason | None:
    """Why another replica may be asked; None where the first outcome stands."""
    if isinstance(error, EndpointResolveFailed):
        return "not_found" if error.missing else retry(state, "endpoint")
    if isinstance(error, UpstreamUnreachable):
        return retry(state, "connect")
    if answer is None:
        return None
    if answer.status in (429, 503):
        return retry(state, "429" if answer.status == 429 else "503")
    if answer.status == 404 and await answer.keep() and says_not_found(answer.prefix):
        return "not_found"
    return None


def retry(state: State, reason: RetryReason) -> RetryReason | None:
    """The reason, unless the operator wants no second attempt."""
    return reason if state.config.proxy.retry else None


def says_not_found(body: bytes) -> bool:
    """Whether a 404 is about the model, and not about the route."""
    try:
        error = json.loads(body)["error"]
        return bool(error["code"] == "model_not_found")
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


async def second_route(state: State, call: Call, route: Route, reason: str) -> Route | None:
    """Where the second attempt goes; None if nowhere."""
    if reason != "not_found":
        return another_replica(state, route.model, route.node.name)
    if route.node.entries.get(route.model) is route.entry:
        route.node.drop(route.model)
    try:
        return await resolve(state, call.requested)
    except HelexaError as error:
        log.info("no second attempt for %s: %s", route.model, error)
        return None


async def attempt(
    state: State, call: Call, route: Route, sending: Sending
) -> tuple[Answer | None, HelexaError | None]:
    """One dispatch: the answer with the connection it holds, or what prevented one."""
    node = route.node
    sent_at = call.dispatching(node.name)
    try:
        url = await endpoint_url(state, node, route.model)
        body = await sending.body(route)
        asking = state.client.request(
            *("POST", url + sending.path, Headers(sending.fields(node)), body),
            first_byte_timeout_s=sending.head_timeout_s,
        )
        upstream = await asking.__aenter__()
    except UpstreamUnreachable as error:
        forget_endpoint(node, route.model)
        poll_soon(state, node)
        return None, error
    except (UpstreamError, EndpointResolveFailed) as error:
        return None, error
    answer = Answer(
        *(route, upstream.status, upstream.headers, sent_at, state.clock()),
        rest=upstream,
        asking=asking,
    )
    call.answer = answer  # which closes it, whatever comes
    answer.prefix = upstream.take_first()
    if answer.status == 500 and route.probe:
        await answer.close()
        return None, Recovering(route.model, node.name)
    if answer.status == 404:
        forget_endpoint(node, route.model)
    return answer, None
