"""Errors in the form of the messages API, of our own and of a neuron's.

    request.render = renderer(request.id)       # for what the route raises
    return upstream_error(status, body, retry_after, request.id)

The header `request-id` is there beside `x-request-id` because Anthropic's clients look for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from helexa.http.response import Render, Response, as_helexa_error
from helexa.protocol.envelope import WireError, read_error
from helexa.protocol.json_text import to_json
from helexa.refusals import MethodNotAllowed

REQUEST_ID: Final = "request-id"
DETAILS: Final = "details"
"""The only one of an error's extras that this dialect has a place for."""

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """What kind of error a status is."""
    default = "invalid_request_error" if 400 <= status < 500 else "api_error"
    return _TYPES.get(status, default)


def anthropic_error(status: int, message: str, code: str | None, request_id: str) -> dict[str, Any]:
    """The body of an error."""
    error = {"type": error_type(status), "message": message}
    if code is not None:
        error["code"] = code
    return {"type": "error", "error": error, "request_id": request_id}


def renderer(request_id: str) -> Render:
    """A `render` for one request: any exception as an answer; a strange one tells nothing."""

    def render(error: Exception) -> Response:
        ours = as_helexa_error(error)
        unexpected = ours.status == 500 and ours.code is None
        told = WireError(
            status=ours.status,
            message=ours.wire_message,
            code="internal_server_error" if unexpected else ours.code,
            retry_after_s=ours.retry_after_s,
            allow=ours.allow if isinstance(ours, MethodNotAllowed) else (),
            extras={key: ours.extras[key] for key in ours.extras if key == DETAILS},
        )
        return _response(told, told.headers(), request_id)

    return render


def upstream_error(status: int, body: bytes, retry_after: str | None, request_id: str) -> Response:
    """The answer for a neuron's refusal: its status, message, code and `Retry-After`."""
    headers = [] if retry_after is None else [("retry-after", retry_after)]
    told = replace(read_error(status, body), extras={})
    return _response(told, headers, request_id)


def _response(error: WireError, headers: list[tuple[str, str]], request_id: str) -> Response:
    body = anthropic_error(error.status, error.message, error.code, request_id)
    body["error"] |= error.extras
    return Response(
        to_json(body),
        error.status,
        [*headers, (REQUEST_ID, request_id)],
        media_type="application/json",
    )
