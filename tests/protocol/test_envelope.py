from __future__ import annotations

import json
from typing import Any

import pytest

from helexa import errors, refusals
from helexa.errors import (
    CapacityError,
    DeviceError,
    EngineClosed,
    EngineLost,
    HelexaError,
    InvalidImage,
    InvalidRequest,
    NumericalError,
    OutOfMemory,
    PreflightError,
    PromptTooLong,
    TemplateError,
    UnsupportedGrammar,
    VisionUnsupported,
)
from helexa.protocol.envelope import (
    WireError,
    chain_text,
    flat_error,
    read_error,
    refused_load,
    wire_error,
)
from helexa.refusals import (
    AnonYield,
    ChainedConversation,
    CudaUnavailable,
    DriverSilent,
    HeadersTooLarge,
    InsufficientQuota,
    InvalidApiKey,
    InvalidBody,
    KvTimeout,
    KvUnservable,
    LowMemory,
    MalformedJson,
    MethodNotAllowed,
    ModelNotFound,
    ModelRecovering,
    ModelUnloaded,
    NoHarness,
    NotBuilt,
    PrincipalCap,
    QueueFull,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    SeatTimeout,
    ShuttingDown,
    TargetTooLong,
    Unavailable,
    UnfinishedAnswer,
    UnknownUrl,
    UnsupportedMediaType,
    UnsupportedParameter,
    WrongModality,
)

IRE, API, RLE = "invalid_request_error", "api_error", "rate_limit_error"
SIGHT = VisionUnsupported("m sees nothing", param="messages", hint="use v")
SIGHT.model_id = "m"
M = {"model_id": "m"}

# error, status, type, code, extras, Retry-After
ROWS: list[tuple[HelexaError, int, str, str | None, dict[str, Any], int | None]] = [
    (UnsupportedParameter("n", param="n"), 400, IRE, "unsupported_parameter", {}, None),
    (UnsupportedGrammar("g", param="n"), 400, IRE, "unsupported_parameter", {}, None),
    (InvalidRequest("bad", param="n"), 400, IRE, "invalid_value", {}, None),
    (InvalidApiKey(), 401, IRE, "invalid_api_key", {}, None),
    (ModelNotFound("m"), 404, IRE, "model_not_found", M, None),
    (
        WrongModality("m", "m paints", suggestion="use t"),
        422,
        IRE,
        "wrong_modality",
        {**M, "suggestion": "use t"},
        None,
    ),
    (ModelRecovering("m", 17), 503, API, "model_recovering", M, 17),
    (ModelRecovering("m"), 503, API, "model_recovering", M, 5),
    (EngineLost("gone"), 503, API, "model_recovering", {}, 5),
    (DeviceError("gone"), 503, API, "model_recovering", {}, 5),
    (ModelUnloaded("m"), 503, API, "model_unloaded", M, 5),
    (EngineClosed("closed"), 503, API, "model_unloaded", {}, 5),
    (TemplateError("boom", param="messages"), 422, IRE, "template_render_failed", {}, None),
    (
        InvalidRequest("empty", param="prompt", code="empty_prompt"),
        400,
        IRE,
        "empty_prompt",
        {},
        None,
    ),
    (InvalidImage("bad", param="n"), 400, IRE, "invalid_image", {}, None),
    (SIGHT, 400, IRE, "vision_unsupported", {**M, "suggestion": "use v"}, None),
    (
        PromptTooLong(60000, 49152),
        400,
        IRE,
        "context_length_exceeded",
        {"prompt_len": 60000, "max": 49152},
        None,
    ),
    (LowMemory(1, 2), 503, API, "insufficient_vram", {"free_mb": 1, "required_mb": 2}, 5),
    (
        OutOfMemory("full", free_mb=1, required_mb=2),
        503,
        API,
        "insufficient_vram",
        {"free_mb": 1, "required_mb": 2},
        5,
    ),
    (
        KvTimeout(200, 800, 6),
        503,
        API,
        "insufficient_vram",
        {"free_mb": 200, "required_mb": 800},
        6,
    ),
    (
        KvUnservable(2976, 428),
        413,
        IRE,
        "prompt_too_long_for_vram",
        {"required_mb": 2976, "budget_mb": 428},
        None,
    ),
    (
        CapacityError("no", required_mb=2, budget_mb=1),
        413,
        IRE,
        "prompt_too_long_for_vram",
        {"required_mb": 2, "budget_mb": 1},
        None,
    ),
    (QueueFull(7), 503, RLE, "rate_limit_exceeded", {}, 7),
    (SeatTimeout(7), 503, RLE, "rate_limit_exceeded", {}, 7),
    (AnonYield(7), 503, RLE, "rate_limit_exceeded", {}, 7),
    (PrincipalCap(7), 429, RLE, "rate_limit_exceeded", {}, 7),
    (ShuttingDown(), 503, API, "shutting_down", {}, 15),
    (NumericalError("nan"), 500, API, None, {}, None),
    (UnfinishedAnswer(), 500, API, None, {}, None),
    (RateLimited(30), 429, RLE, "rate_limit_exceeded", {}, 30),
    (InsufficientQuota("none left"), 429, "insufficient_quota", "insufficient_quota", {}, None),
    (Unavailable("down", retry_after_s=5), 503, API, "service_unavailable", {}, 5),
    (Unavailable("down"), 503, API, "service_unavailable", {}, None),
    (DriverSilent(), 503, API, "service_unavailable", {}, 5),
    (NotBuilt("images"), 501, API, "not_implemented", {}, None),
    # before any handler
    (UnsupportedMediaType("no"), 415, IRE, "unsupported_media_type", {}, None),
    (RequestTooLarge(9), 413, IRE, "request_too_large", {"max_bytes": 9}, None),
    (MalformedJson("no"), 400, IRE, "malformed_json", {}, None),
    (InvalidBody("no", param="n"), 422, IRE, "invalid_request_body", {}, None),
    (RequestTimeout("slow"), 408, IRE, "request_timeout", {}, None),
    (TargetTooLong(9), 414, IRE, "uri_too_long", {}, None),
    (HeadersTooLarge("big"), 431, IRE, "request_headers_too_large", {}, None),
    (UnknownUrl("GET", "/x"), 404, IRE, "unknown_url", {}, None),
    (MethodNotAllowed("PUT", "/x", ["GET"]), 405, IRE, "method_not_allowed", {}, None),
]
WITH_PARAM = {"unsupported_parameter", "invalid_value", "invalid_image", "invalid_request_body"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{type(row[0]).__name__}-{row[3]}")
def test_n058_error_table(
    row: tuple[HelexaError, int, str, str | None, dict[str, Any], int | None],
) -> None:
    error, status, type_, code, extras, retry = row
    wire = wire_error(error)
    assert wire.status == status
    body = wire.body()["error"]
    assert list(body)[:4] == ["message", "type", "code", "param"]
    message = body.pop("message")
    assert message
    param = "n" if code in WITH_PARAM else None
    assert body == {"type": type_, "code": code, "param": param, **extras}
    assert dict(wire.headers()).get("retry-after") == (None if retry is None else str(retry))


def test_every_class_of_the_tree_is_in_the_table() -> None:
    """Guards against a new error whose wire form nobody looked at."""
    bases = {"InvalidRequest", "HelexaError", "LoadError", "Refusal", "Overloaded", "Unavailable"}
    elsewhere = {"NoHarness", "CudaUnavailable", "ChainedConversation", "StepTimeout"}
    elsewhere |= {"ProtocolError", "PreflightError", "DownloadError", "CheckpointError"}
    elsewhere |= {"UnsupportedModel", "ConfigError"}
    known = {type(row[0]).__name__ for row in ROWS} | bases | elsewhere
    for module in (errors, refusals):
        for name, thing in vars(module).items():
            if isinstance(thing, type) and issubclass(thing, HelexaError):
                assert name in known, f"{name}: give it a row"


def test_n059_error_values() -> None:
    too_long = wire_error(PromptTooLong(60000, 49152))
    assert too_long.message == (
        "This model's maximum context length is 49152 tokens. However, your messages resulted in "
        "60000 tokens. Please reduce the length of the messages."
    )
    assert too_long.headers() == []
    assert wire_error(LowMemory(1024, 8192)).headers() == [("retry-after", "5")]
    assert wire_error(QueueFull(7)).headers() == [("retry-after", "7")]
    other = wire_error(RuntimeError("kaboom"))
    assert (other.status, other.code) == (500, None)
    assert "kaboom" in other.message


def test_fixed_messages() -> None:
    assert str(QueueFull(2)) == "model is busy (admission queue full); retry shortly"
    assert str(PrincipalCap(2)) == "too many concurrent requests for this key; retry shortly"
    rendered = wire_error(TemplateError("no such role", hint="send others"))
    assert rendered.message == "chat template could not render this request: no such role"
    assert str(UnknownUrl("GET", "/nope")) == "Unknown request URL: GET /nope"


def test_n060_envelope() -> None:
    assert wire_error(ValueError("x")).body()["error"]["code"] is None
    long = wire_error(PromptTooLong(60000, 49152)).body()
    assert long.keys() == {"error"}
    assert (long["error"]["prompt_len"], long["error"]["max"]) == (60000, 49152)
    assert wire_error(RateLimited(30, "spent")).headers() == [("retry-after", "30")]
    for quiet in (InsufficientQuota("x"), Unavailable("x")):
        assert wire_error(quiet).headers() == []
    assert wire_error(InvalidApiKey()).headers() == [("www-authenticate", "Bearer")]
    assert wire_error(Unavailable("x", retry_after_s=5)).headers() == [("retry-after", "5")]


def test_n023_methods_are_allowed_by_header() -> None:
    assert wire_error(MethodNotAllowed("PUT", "/x", ["GET", "HEAD"])).headers() == [
        ("allow", "GET, HEAD")
    ]


def test_n055_n057_flat_errors() -> None:
    assert wire_error(NoHarness("candle")).body() == {
        "error": "harness 'candle' is not enabled on this neuron"
    }
    chained = wire_error(ChainedConversation())
    assert chained.status == 400
    assert chained.body()["code"] == "chained_conversation_not_supported"
    assert isinstance(chained.body()["error"], str)
    broken = wire_error(CudaUnavailable("driver/library mismatch; reboot the host"))
    assert (broken.status, broken.body()["code"]) == (503, "cuda_unavailable")
    assert "reboot the host" in broken.body()["error"]


def test_control_routes_are_flat() -> None:
    try:
        try:
            raise OSError("disk full")
        except OSError as error:
            raise HelexaError("the load failed") from error
    except HelexaError as error:
        wire = flat_error(error)
    assert (wire.status, wire.body()) == (400, {"error": "the load failed: disk full"})


def test_n045_error_json() -> None:
    facts = {"model_id": "huggingface:o/n", "requested": "q9", "nearest": None}
    wire = refused_load(PreflightError("quant_not_found", "no q9", details=facts))
    assert wire.status == 422
    assert wire.body() == {
        "error": {
            "kind": "quant_not_found",
            "model_id": "huggingface:o/n",
            "requested": "q9",
            "nearest": None,
        }
    }


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert chain_text(first) == "a: b"
    assert chain_text(KeyError()) == "KeyError"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{type(row[0]).__name__}-{row[3]}")
def test_an_envelope_reads_back(row: tuple[HelexaError, Any, Any, Any, Any, Any]) -> None:
    sent = wire_error(row[0])
    headers = dict(sent.headers())
    read = read_error(sent.status, json.dumps(sent.body()).encode(), headers.get("retry-after"))
    assert read.body() == sent.body()
    assert read.retry_after_s == sent.retry_after_s


def test_flat_answers_read_back() -> None:
    for sent in (wire_error(ChainedConversation()), wire_error(NoHarness("candle"))):
        read = read_error(sent.status, json.dumps(sent.body()).encode())
        assert (read.status, read.body(), read.flat) == (sent.status, sent.body(), True)
    refused = read_error(422, b'{"error":{"kind":"empty_repo","model_id":"o/n"}}')
    assert refused.detail == {"kind": "empty_repo", "model_id": "o/n"}
    assert "empty_repo" in refused.message


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"error":null}', b'{"error":{"message":5}}', b"\xff"]
)
def test_an_upstream_may_answer_anything(body: bytes) -> None:
    for retry in (None, "", "soon", "-1", "9" * 40, "٣"):
        read = read_error(502, body, retry)
        assert read.message == "upstream returned 502"
        assert read.retry_after_s is None
    assert read_error(503, body, " 6 ").retry_after_s == 6


def test_wire_errors_default_to_a_plain_envelope() -> None:
    assert WireError(500, "x").body() == {
        "error": {"message": "x", "type": "api_error", "code": None, "param": None}
    }
