"""Answers: whole, or in parts as they come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable
from typing import Any, Protocol

from helexa.errors import HelexaError
from helexa.http.headers import Field, HeaderInput, fields_of
from helexa.refusals import MethodNotAllowed

Render = Callable[[Exception], "Response"]
LastWords = Callable[[HelexaError], bytes]


class Sink(Protocol):
    """Where an answer is written to: a connection, or an ASGI server's ``send``.

    A client that has left shows as cancellation. ``last_words`` makes the final bytes of a stream
    that the server itself has to end, after which it is whole (``words_end``) or cut off.
    """

    head_only: bool
    last_words: LastWords | None
    words_end: bool

    @property
    def started(self) -> bool:
        """Whether a head has been written: no other one can follow."""
        ...

    async def whole(self, status: int, fields: list[Field], body: bytes) -> None:
        """Head and body at once."""
        ...

    async def start(
        self, status: int, fields: list[Field], first: bytes = b"", *, last: bool = False
    ) -> None:
        """The head, and the first of the body if it is at hand; ``last``: that is all of it."""
        ...

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """More of the body; returns when the client's side has taken it."""
        ...

    async def end(self) -> None:
        """The body is complete."""
        ...


class Response:
    """A whole answer. ``headers`` may repeat names; framing and the request id are added."""

    def __init__(
        self,
        body: bytes | str = b"",
        status: int = 200,
        headers: HeaderInput = (),
        *,
        media_type: str | None = None,
    ) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.fields = fields_of(headers)
        if media_type is not None:
            self.fields.append((b"content-type", media_type.encode("latin-1")))

    async def send(self, sink: Sink) -> None:
        """Write this answer."""
        await sink.whole(self.status, self.fields, self.body)


class StreamingResponse(Response):
    """An answer whose parts are passed on one by one, each as soon as it is there.

    ``first`` is sent together with the head. ``parts`` may be an async generator; it is closed
    when the answer ends, however it does. If it raises after the head, the connection is cut, so
    that no client takes the part for the whole. If it has an attribute ``complete`` that is true
    once no part will follow, the end is sent together with the last one.
    """

    def __init__(
        self,
        parts: AsyncIterable[bytes],
        status: int = 200,
        headers: HeaderInput = (),
        *,
        first: bytes = b"",
        media_type: str | None = None,
    ) -> None:
        super().__init__(first, status, headers, media_type=media_type)
        self.parts = parts

    async def send(self, sink: Sink) -> None:
        parts = self.parts
        try:
            complete = getattr(parts, "complete", False)
            await sink.start(self.status, self.fields, self.body, last=complete)
            if not (sink.head_only or complete):
                async for part in parts:
                    if part:
                        await sink.write(part, last=getattr(parts, "complete", False))
            await sink.end()
        finally:
            await close(parts)


async def close(parts: AsyncIterable[Any]) -> None:
    """Close an async generator, or what else can be closed."""
    aclose = getattr(parts, "aclose", None)
    if aclose is not None:
        await aclose()


def json_response(value: Any, status: int = 200, headers: HeaderInput = ()) -> Response:
    """A JSON answer in UTF-8, without spaces. NaN is an error, it is not JSON."""
    return Response(dump_json(value), status, headers, media_type="application/json")


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; half a surrogate pair, which that cannot hold, as an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # the \udXXX it writes is JSON's escape, too


def envelope(error: HelexaError) -> dict[str, Any]:
    """The OpenAI form of an error: message, type, code, param, and its extras."""
    param = getattr(error, "param", None)
    message = error.wire_message
    told = {"message": message, "type": error.type, "code": error.code, "param": param}
    return {"error": told | error.extras}


def cause_of(error: BaseException) -> BaseException:
    """The error that a task group wrapped, if it was alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def as_helexa_error(error: BaseException) -> HelexaError:
    """The error if it is ours, else an internal error that tells nothing."""
    cause = cause_of(error)
    return cause if isinstance(cause, HelexaError) else HelexaError("internal error")


def render_error(error: Exception) -> Response:
    """An error as an answer: status, envelope, ``Retry-After`` and ``Allow`` where they belong."""
    ours = as_helexa_error(error)
    headers: dict[str, str] = {}
    if ours.retry_after_s is not None:
        headers["retry-after"] = str(ours.retry_after_s)
    if isinstance(ours, MethodNotAllowed):
        headers["allow"] = ", ".join(ours.allow)
    return json_response(envelope(ours), ours.status, headers)
