"""A request, as a handler sees it."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from helexa.http.body import MAX_DEPTH, parse_json, require_json
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
        max_body_bytes: int,
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
        self._held: AsyncExitStack | None = None
        self._ended = False
        self._source = source
        self._max_body_bytes = max_body_bytes
        self._body: bytes | None = None

    @property
    def content_length(self) -> int | None:
        """The declared size of the body in bytes; None for a chunked one."""
        return self._source.content_length

    async def stream(self, max_bytes: int | None = None) -> AsyncIterator[bytes]:
        """The body in parts as they arrive. Raises RequestTooLarge, RequestTimeout."""
        limit = self._max_body_bytes if max_bytes is None else max_bytes
        if (self.content_length or 0) > limit:
            raise RequestTooLarge(limit)
        size = 0
        while part := await self._source.read():
            size += len(part)
            if size > limit:
                raise RequestTooLarge(limit)
            yield part

    async def body(self, max_bytes: int | None = None) -> bytes:
        """The whole body, read once. Raises RequestTooLarge, RequestTimeout."""
        if self._body is None:
            parts = [part async for part in self.stream(max_bytes)]
            self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self._body

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
        if self._held is None:
            self._held = AsyncExitStack()
        return await self._held.enter_async_context(resource)

    async def release(self, error: BaseException | None) -> None:
        """Leave what is held; ``error`` is what ended the request, if something did."""
        self._ended = True
        held, self._held = self._held, None
        if held is None:
            return
        if error is None:
            await held.aclose()
        else:
            await held.__aexit__(type(error), error, error.__traceback__)


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
