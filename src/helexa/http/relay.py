"""Passing a request on, and its answer back, byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from helexa.http.client import Client
from helexa.http.headers import Field, Headers
from helexa.http.request import Request
from helexa.http.response import StreamingResponse

HOP_BY_HOP = frozenset(
    name.encode()
    for name in (
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate"),
        *("proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
# What a relay says anew: where to, how long, that it has the body, and that it wants it plain.
_REWRITTEN = frozenset({b"host", b"content-length", b"expect", b"accept-encoding", b"x-request-id"})
_NOT_PASSED_ON = HOP_BY_HOP | _REWRITTEN
_PLAIN = (b"accept-encoding", b"identity")


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """The fields that are meant for the far end: all but hop-by-hop ones and those they name."""
    return _without(fields, HOP_BY_HOP)


def request_fields(
    request: Request, *, drop: Collection[bytes] = (), add: Iterable[Field] = ()
) -> list[Field]:
    """The fields to send upstream for a request: its own, but ``drop``, and ``add``."""
    dropped = _NOT_PASSED_ON.union(drop) if drop else _NOT_PASSED_ON
    kept = _without(request.headers.fields, dropped)
    return [*kept, _PLAIN, (b"x-request-id", request.id.encode()), *add]


def _without(fields: Iterable[Field], names: frozenset[bytes]) -> list[Field]:
    kept, named = [], None
    for field in fields:
        if field[0] not in names:
            kept.append(field)
        elif field[0] == b"connection":
            named = (named or set()).union(map(bytes.strip, field[1].lower().split(b",")))
    return kept if named is None else [field for field in kept if field[0] not in named]


async def relay(
    request: Request,
    client: Client,
    url: str,
    *,
    fields: Iterable[Field] | None = None,
    body: bytes | None = None,
    first_byte_timeout_s: float | None = None,
) -> StreamingResponse:
    """Ask ``url`` what was asked here; the answer is passed on as it comes.

    The upstream connection is held by the request: it closes the moment the client leaves. Raises
    what `Client.request` raises.
    """
    upstream = await request.hold(
        client.request(
            request.method,
            url,
            Headers(request_fields(request) if fields is None else fields),
            await request.body() if body is None else body,
            first_byte_timeout_s=first_byte_timeout_s,
        )
    )
    answer = Headers(end_to_end(upstream.headers.fields))
    return StreamingResponse(upstream, upstream.status, answer, first=upstream.take_first())
