"""A request, as a handler sees it."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from helexa.http.body import MAX_DEPTH, parse_json, require_json
from helexa.http.budget import BodyLimits
from helexa.http.headers import Headers
from helexa.refusals import RequestTooLarge

if TYPE_CHECKING:
    from helexa.http.response import Render

Held = TypeVar("Held")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id_of(headers: Headers) -> str:
    """The client's own id if it is 1 to 128 visible ASCII characters, else a new one."""
    given = headers.first(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return new_request_id()


def new_request_id() -> str:
    """``req_`` and 32 hex digits: unique, not secret."""
    return f"req_{random.getrandbits(128):032x}"


class BodySource(Protocol):
    """Where a request's body comes from."""

    content_length: int | None

    async def read(self) -> bytes:
        """The next part; empty at the end. Raises Refusal if the body is bad or slow."""
        ...


class Request:
    """One request.

    ``path`` and ``query`` are percent-encoded as sent; ``params`` are decoded. ``route`` is the
    pattern that matched, fit for a metric's label; empty if none did. ``context`` is for what one
    handler tells the next, such as who is asking.
    """

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        source: BodySource,
        *,
        client: str = "",
        limits: BodyLimits,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.client = client
        self.id = request_id_of(headers)
        self.route = ""
        self.params: dict[str, str] = {}
        self.context: dict[str, Any] = {}
        self.render: Render | None = None
        self._held: list[AbstractAsyncContextManager[Any]] = []
        self._ended = False
        self._source = source
        self._max_body_bytes = limits.max_bytes
        self._body: bytes | None = None
        self._budget = limits.budget
        self._budgeted_bytes = 0

    @property
    def content_length(self) -> int | None:
        """The declared size of the body in bytes; None for a chunked one."""
        return self._source.content_length

    async def stream(self, max_bytes: int | None = None) -> AsyncIterator[bytes]:
        """The body in parts as they arrive. Raises RequestTooLarge, RequestTimeout."""
        size, limit = 0, self._limit(max_bytes)
        while part := await self._source.read():
            size += len(part)
            if size > limit:
                raise RequestTooLarge(limit)
            yield part

    async def body(self, max_bytes: int | None = None) -> bytes:
        """The whole body, read once. Raises RequestTooLarge, RequestTimeout, or its budget's error.

        Its bytes count against the budget of all bodies until the request has ended.
        """
        if self._body is None:
            size, limit, length = 0, self._limit(max_bytes), self.content_length
            if self._budget is not None:
                self._budget.require(length or 0)
            parts = []
            while size != length and (part := await self._source.read()):
                size += len(part)
                if size > limit:
                    raise RequestTooLarge(limit)
                self.takes(len(part))
                parts.append(part)
            self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._body

    def _limit(self, max_bytes: int | None) -> int:
        limit = self._max_body_bytes if max_bytes is None else max_bytes
        if (self.content_length or 0) > limit:
            raise RequestTooLarge(limit)
        return limit

    def takes(self, size: int) -> None:
        """Count so many bytes more against the budget of all bodies. Raises the budget's error.

        For what is made of a body, where that may be much larger than the body.
        """
        if self._budget is not None:
            self._budget.take(size)
            self._budgeted_bytes += size

    async def json(self, *, max_depth: int = MAX_DEPTH) -> Any:
        """The body as JSON. Raises UnsupportedMediaType, RequestTooLarge, MalformedJson."""
        require_json(self.headers)
        return parse_json(await self.body(), max_depth=max_depth)

    async def hold(self, resource: AbstractAsyncContextManager[Held]) -> Held:
        """Enter a context that is left when the answer has ended, whichever way it ends.

        For what a streamed answer needs after its handler has returned: a seat, an upstream
        connection. Left in reverse order, in the task of the handler.
        """
        if self._ended:
            raise RuntimeError("the request has ended, nothing can be held for it")
        value = await resource.__aenter__()
        self._held.append(resource)
        return value

    async def release(self, error: BaseException | None) -> None:
        """Leave what is held; ``error`` is what ended the request, if something did.

        All of it is left, whatever leaving something raises; the last of that is raised here.
        """
        self._ended = True
        if self._budget is not None:
            self._budget.give_back(self._budgeted_bytes)
            self._budgeted_bytes = 0
        raised: BaseException | None = None
        while self._held:
            resource = self._held.pop()
            kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
            try:
                if await resource.__aexit__(kind, error, trace):
                    error = raised = None
            except BaseException as failure:
                error = raised = failure
        if raised is not None:
            try:
                raise raised
            finally:
                del error, raised  # a frame and its error would know one another


Observe = Callable[[Request, "Ending"], None]


class Ending:
    """How a request ended, for metrics and logs.

    ``status`` is None if no head was sent. ``outcome``: ``done``; ``gone``, the client left;
    ``stalled``, it accepted nothing; ``cut``, the answer broke off after its head; ``shutdown``.
    """

    __slots__ = ("duration_s", "outcome", "sent_bytes", "status")

    def __init__(self, status: int | None, outcome: str, duration_s: float, sent_bytes: int):
        self.status = status
        self.outcome = outcome
        self.duration_s = duration_s
        self.sent_bytes = sent_bytes
