"""What lets any page in a browser talk to the gateway."""

from __future__ import annotations

from collections.abc import Iterable

from helexa.http.headers import Field
from helexa.http.request import Request
from helexa.http.response import Response

CORS: tuple[Field, ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
)
_NAMES = frozenset(name for name, _ in CORS)


def without_cors(fields: Iterable[Field]) -> list[Field]:
    """The fields of a neuron's answer without its own; a browser takes each of ours only once."""
    return [field for field in fields if field[0] not in _NAMES]


def preflight(request: Request) -> Response:
    """The answer to any OPTIONS, whoever asks and for whatever path."""
    asked = request.headers.first(b"access-control-request-headers")
    fields = [
        *CORS,
        (b"access-control-allow-methods", b"*"),
        (b"access-control-allow-headers", asked or b"*"),
    ]
    return Response(b"", 200, fields)
