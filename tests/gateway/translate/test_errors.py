"""Errors as Anthropic's clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.errors import HelexaError
from helexa.gateway.refusals import (
    ColdLoadFailed,
    EvictionFailed,
    InvalidAnthropicBody,
    NoHealthyNodes,
    OverContext,
    UnknownModel,
)
from helexa.gateway.translate.errors import anthropic_error, error_type, renderer, upstream_error
from helexa.http.faults import UpstreamError, UpstreamMalformed, UpstreamTimeout
from helexa.http.response import Response
from helexa.refusals import InsufficientQuota, InvalidApiKey, MethodNotAllowed, RequestTooLarge


def told(response: Response) -> tuple[int, str, str, Any]:
    """Status, type, message and code; the rest of the form is checked."""
    body = json.loads(response.body)
    assert (body["type"], body["request_id"]) == ("error", "req_1")
    assert list(body) == ["type", "error", "request_id"]
    assert dict(response.fields)[b"request-id"] == b"req_1"
    assert dict(response.fields)[b"content-type"] == b"application/json"
    error = body["error"]
    assert list(error) in (["type", "message"], ["type", "message", "code"])
    return response.status, error["type"], error["message"], error.get("code")


def header(response: Response, name: bytes) -> bytes | None:
    return dict(response.fields).get(name)


REFUSED = "invalid_request_error"
OURS: list[tuple[HelexaError, int, str, str]] = [
    (UnknownModel("m"), 404, "not_found_error", "model_not_found"),
    (InvalidAnthropicBody("a", "b"), 400, REFUSED, "invalid_anthropic_body"),
    (InvalidApiKey(), 401, "authentication_error", "invalid_api_key"),
    (NoHealthyNodes(), 503, "overloaded_error", "service_unavailable"),
    (InsufficientQuota("spent"), 429, "rate_limit_error", "insufficient_quota"),
    (RequestTooLarge(5), 413, "request_too_large", "request_too_large"),
    (ColdLoadFailed("m", "n", "x", refused=True), 404, "not_found_error", "service_unavailable"),
    (UpstreamError("secret"), 502, "api_error", "upstream_connection_error"),
    (UpstreamMalformed("secret"), 502, "api_error", "upstream_malformed_response"),
    (UpstreamTimeout("secret"), 504, "timeout_error", "upstream_timeout"),
    (MethodNotAllowed("GET", "/v1/messages", ["POST"]), 405, REFUSED, "method_not_allowed"),
    (EvictionFailed("no"), 500, "api_error", "internal_server_error"),
]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"), OURS, ids=[type(row[0]).__name__ for row in OURS]
)
def test_g117_errors(error: HelexaError, status: int, kind: str, code: str) -> None:
    response = renderer("req_1")(error)
    assert told(response) == (status, kind, error.wire_message, code)
    wait_s = header(response, b"retry-after")
    assert wait_s == (b"5" if isinstance(error, NoHealthyNodes) else None)
    assert b"secret" not in response.body


def test_headers_that_belong_to_a_status() -> None:
    refused = renderer("req_1")(InvalidApiKey())
    assert header(refused, b"www-authenticate") == b"Bearer"
    wrong = renderer("req_1")(MethodNotAllowed("GET", "/v1/messages", ["POST"]))
    assert header(wrong, b"allow") == b"POST"


def test_what_is_unexpected_tells_nothing() -> None:
    response = renderer("req_1")(KeyError("secret"))
    assert told(response) == (500, "api_error", "internal error", "internal_server_error")
    grouped = renderer("req_1")(ExceptionGroup("x", [NoHealthyNodes()]))
    assert told(grouped)[0] == 503


def test_g139_the_context_in_anthropics_words() -> None:
    error = OverContext(302, 50, anthropic=True)
    message = "prompt is too long: 302 tokens > 50 maximum"
    assert told(renderer("req_1")(error)) == (
        *(400, "invalid_request_error"),
        *(message, "context_length_exceeded"),
    )


def test_g118_upstream_error() -> None:
    refused = {"message": "busy", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
    body = json.dumps({"error": {**refused, "param": None}}).encode()
    response = upstream_error(503, body, "6", "req_1")
    assert told(response) == (503, "overloaded_error", "busy", "rate_limit_exceeded")
    assert header(response, b"retry-after") == b"6"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b'{"error":"no such model"}', ("not_found_error", "no such model", None)),
        (422, b'{"error":"x","code":"y"}', ("invalid_request_error", "x", "y")),
        (500, b'{"error":{"code":"c"}}', ("api_error", "upstream returned 500", "c")),
        (529, b"<html>", ("overloaded_error", "upstream returned 529", None)),
        (503, b"", ("overloaded_error", "upstream returned 503", None)),
        (429, b"[" * 100_000, ("rate_limit_error", "upstream returned 429", None)),
    ],
    ids=["flat", "flat with code", "no message", "no JSON", "empty", "deep"],
)
def test_g118_other_bodies(status: int, body: bytes, expected: tuple[str, str, Any]) -> None:
    response = upstream_error(status, body, None, "req_1")
    assert told(response) == (status, *expected)
    assert header(response, b"retry-after") is None


def test_a_retry_after_is_passed_on_as_it_is() -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert header(upstream_error(503, b"", date, "req_1"), b"retry-after") == date.encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error")),
        *((404, "not_found_error"), (413, "request_too_large"), (415, "invalid_request_error")),
        *(
            (422, "invalid_request_error"),
            (429, "rate_limit_error"),
            (431, "invalid_request_error"),
        ),
        *((500, "api_error"), (501, "api_error"), (502, "api_error"), (503, "overloaded_error")),
        *((504, "timeout_error"), (529, "overloaded_error"), (302, "api_error")),
    ],
)
def test_types(status: int, kind: str) -> None:
    assert error_type(status) == kind
    assert anthropic_error(status, "m", None, "r") == {
        "type": "error",
        "error": {"type": kind, "message": "m"},
        "request_id": "r",
    }
