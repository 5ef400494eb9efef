"""One proxied call, from the moment it came in to its last byte: what is counted, charged, told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from helexa.gateway.auth import PRINCIPAL
from helexa.gateway.entitlements.provider import Principal
from helexa.gateway.metering import Meter
from helexa.gateway.proxy.observer import Observer, Usage
from helexa.gateway.proxy.wires import IMAGES, Wire
from helexa.http import Ending, Request
from helexa.http.faults import UpstreamTimeout

if TYPE_CHECKING:
    from helexa.gateway.fleet import Node
    from helexa.gateway.proxy.dispatch import Answer
    from helexa.gateway.router import Route
    from helexa.gateway.state import State

CALL: Final = "call"
MAX_NAME: Final = 200
SHORTEST_S: Final = 0.1
EVENT_STREAM: Final = "text/event-stream"

Outcome = Literal[
    "ok", "upstream_status", "upstream_error", "timeout", "client_gone", "refused", "shutdown"
]
"""How a call ended, as its line tells it."""

Price = Callable[[bytes], tuple[int, int]]
"""Tokens and thousandths of a unit, by the end of an answer's body."""

log = logging.getLogger("helexa.gateway.requests")


class Call:
    """What is known of one call; a context that settles its bill at the end.

    Whoever the request meets fills in what it learns. `ended` writes the one line.
    """

    def __init__(self, state: State, wire: Wire, request: Request) -> None:
        principal: Principal | None = request.context.get(PRINCIPAL)
        self.state = state
        self.wire = wire
        self.id = request.id
        self.meter = Meter(state.provider, principal)
        self.requested = self.model = self.node = ""
        self.stream = self.cold_start = False
        self.attempts = 0
        self.received_at = state.clock()
        self.dispatched_at: float | None = None
        self.head_at: float | None = None
        self.status: int | None = None
        self.kind = ""
        self.streams = False
        self.observer: Observer | None = None
        self.price: Price | None = None
        self.usage: Usage | None = None
        self.problem: Exception | None = None
        self.answer: Answer | None = None
        self._seat: tuple[Node, str] | None = None
        request.context[CALL] = self

    # ----------------------------------------------------------------- what is learnt on the way

    def asks(self, model: str, *, stream: bool) -> None:
        """The body could be read."""
        self.requested, self.stream = model, stream

    def routed(self, route: Route) -> None:
        """A node was found for it, which is busier for that from now on."""
        self.model, self.node = route.model, route.node.name
        self.cold_start = self.cold_start or route.cold_start
        self.leave()
        self._seat = route.node, route.model
        route.node.arrives(route.model)

    def rerouted(self, route: Route) -> None:
        """It goes to another node, after it was `counted`."""
        self.routed(route)
        if route.cold_start:
            self.state.metrics.cold_start(self.model, self.node)

    def leave(self) -> None:
        """Its node is less busy again."""
        seat, self._seat = self._seat, None
        if seat is not None:
            node, model = seat
            node.leaves(model)

    def counted(self) -> None:
        """It goes on to a neuron unless its budget forbids."""
        metrics = self.state.metrics
        metrics.request(self.model, self.node)
        if self.cold_start:
            metrics.cold_start(self.model, self.node)
        if self.wire is IMAGES:
            metrics.images_request(self.model, self.node)

    def dispatching(self, node: str) -> float:
        """It is about to be sent to this node; when that is."""
        self.attempts += 1
        self.node = node
        self.dispatched_at = now = self.state.clock()
        return now

    def answered(self, answer: Answer) -> None:
        """The head of an answer is there: it is the one that the client gets."""
        self.answer, route = answer, answer.route
        self.model, self.node = route.model, route.node.name  # there may have been an attempt since
        status, headers = answer.status, answer.headers
        self.dispatched_at = answer.sent_at
        self.head_at = self.state.clock()
        self.status = status
        took = answer.head_at - answer.sent_at
        metrics = self.state.metrics
        metrics.duration(self.model, self.node, took)
        if self.wire is IMAGES:
            metrics.images_duration(self.model, self.node, took)
        if status >= 500:
            metrics.request_error(self.model, self.node)
        if 200 <= status < 300:
            self.kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
            self.streams = self.kind == EVENT_STREAM
            self.observer = Observer(
                self.wire.dialect, event_stream=self.streams, clock=self.state.clock
            )

    def feed(self, chunk: bytes) -> None:
        """A part of the neuron's body came."""
        if self.observer is not None:
            self.observer.feed(chunk)

    def discard(self) -> None:
        """What came was of no use: it is not charged."""
        self.observer = None

    def failed(self, error: Exception) -> None:
        """The neuron failed, which the client was told in its own way."""
        self.problem = error

    # ------------------------------------------------------------------------------ how it ended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.problem is None and isinstance(error, Exception):
            self.problem = error
        self.leave()
        try:
            if self.dispatched_at is not None:
                self._conclude()
        finally:  # whatever there was to tell, the connection and the reservation are let go
            if self.answer is not None:
                await self.answer.close()
            await self.meter.__aexit__(kind, error, traceback)
        if self.problem is not None:  # it is kept for the line, its frames are not
            self.problem = self.problem.with_traceback(None)

    def _conclude(self) -> None:
        """Count the answer, and say what it costs."""
        observer, metrics = self.observer, self.state.metrics
        broke = self.problem is not None
        if observer is None:
            if broke and (self.status is None or self.status < 300):
                metrics.request_error(self.model, self.node)
            return
        if broke or observer.error_seen:
            metrics.request_error(self.model, self.node)
        if self.price is not None:
            self._charge_price(self.price, observer)
        else:
            self.usage = observer.usage
            self._charge(observer)
        self._tell_speed(observer)

    def _charge(self, observer: Observer) -> None:
        usage, metrics = self.usage, self.state.metrics
        if usage is not None:
            metrics.tokens(self.model, self.node, usage.prompt, usage.completion, usage.cached)
            prompt, completion = usage.prompt, usage.completion
        else:
            prompt, completion = 0, observer.deltas
        self.meter.charge(prompt + completion)
        if self.meter.principal is not None:
            payer = self.meter.principal
            metrics.spent(payer.account_id, payer.key_id, prompt, completion)

    def _charge_price(self, price: Price, observer: Observer) -> None:
        tokens, milliunits = price(observer.tail)
        self.state.metrics.images_generated(self.model, self.node)
        self.meter.charge(tokens)
        if self.meter.principal is not None:
            payer = self.meter.principal
            self.state.metrics.spent_images(payer.account_id, payer.key_id, milliunits)

    def _tell_speed(self, observer: Observer) -> None:
        metrics, began = self.state.metrics, self.dispatched_at or 0.0
        first = observer.first_delta_at if self.streams else observer.first_byte_at
        if first is not None:
            metrics.first_token(self.model, self.node, first - began)
        if self.usage is None or not self.usage.completion:
            return
        spoke = (observer.last_delta_at or 0.0) - (observer.first_delta_at or 0.0)
        took = spoke if spoke >= SHORTEST_S else (observer.last_byte_at or 0.0) - began
        if took > 0:
            metrics.tokens_per_second(self.model, self.node, self.usage.completion / took)

    def ended(self, ending: Ending) -> None:
        """Write the line."""
        fields = self._line(ending)
        level = logging.INFO if fields["outcome"] == "ok" else logging.WARNING
        if log.isEnabledFor(level):  # made by hand: looking for who logs takes longer than the rest
            record = logging.LogRecord(log.name, level, "", 0, "request", None, None)
            record.__dict__["fields"] = fields
            log.handle(record)

    def _line(self, ending: Ending) -> dict[str, Any]:
        began, usage = self.received_at, self.usage
        principal = self.meter.principal
        head = self.head_at
        return {
            "request_id": self.id,
            "wire": self.wire.name,
            "requested": self.requested[:MAX_NAME] or None,
            "model": self.model or None,
            "node": self.node or None,
            "status": ending.status,
            "stream": self.stream,
            "cold_start": self.cold_start,
            "attempts": self.attempts,
            "head_ms": None if head is None else round(1000 * (head - began)),
            "total_ms": round(1000 * (self.state.clock() - began)),
            "bytes": ending.sent_bytes,
            "prompt_tokens": usage.prompt if usage is not None else None,
            "completion_tokens": usage.completion if usage is not None else None,
            "account": principal.account_id if principal is not None else None,
            "key": principal.key_id if principal is not None else None,
            "outcome": self._outcome(ending),
        }

    def _outcome(self, ending: Ending) -> Outcome:
        if ending.outcome in ("gone", "stalled"):
            return "client_gone"
        if ending.outcome == "shutdown":
            return "shutdown"
        if isinstance(self.problem, UpstreamTimeout):
            return "timeout"
        told = self.observer is not None and self.observer.error_seen
        if self.dispatched_at is not None and (told or self.problem is not None):
            return "upstream_error"
        if self.status is None:
            return "refused"
        return "ok" if self.status < 400 else "upstream_status"
