"""Levels, formats, and the one line a request ends with."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from itertools import count

import pytest

from helexa.daemon.logs import (
    TRACE,
    JsonFormatter,
    as_word,
    choose_format,
    choose_level,
    configure_logging,
)
from helexa.neuron.request_line import Done, RequestLine


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Puts logging back as it was."""
    root = logging.getLogger("helexa")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


@pytest.fixture
def log() -> io.StringIO:
    stream = io.StringIO()
    configure_logging(TRACE, "text", stream)
    return stream


def line(**values: object) -> RequestLine:
    clock = count().__next__
    given = {"request_id": "r1", "surface": "chat", "model": "o/n", "clock": clock, **values}
    return RequestLine(**given)  # type: ignore[arg-type]  # the values are the test's


@pytest.mark.parametrize(
    ("option", "environ", "level"),
    [
        (None, {}, logging.INFO),
        ("warn", {"HELEXA_LOG": "debug"}, logging.WARNING),
        ("warning", {}, logging.WARNING),
        (None, {"HELEXA_LOG": "Error", "RUST_LOG": "debug"}, logging.ERROR),
        (None, {"RUST_LOG": "neuron=trace,debug,info"}, logging.DEBUG),
        (None, {"RUST_LOG": "neuron=trace"}, logging.INFO),
        (None, {"HELEXA_LOG": "loud"}, logging.INFO),
        ("trace", {}, TRACE),
    ],
)
def test_levels(option: str | None, environ: dict[str, str], level: int) -> None:
    assert choose_level(option, environ) == level


def test_formats() -> None:
    assert [choose_format({"HELEXA_LOG_FORMAT": f}) for f in ("json", "text", "x", "")] == [
        *("json", "text", "text", "text")
    ]


def test_n143_done(log: io.StringIO) -> None:
    end = line(principal="a/k", stream=True)
    end.done(Done(prompt_tokens=7, completion_tokens=24576, finish_reason="length", decode_ms=1234))
    end.failed(code=None, detail="too late")
    [written] = log.getvalue().splitlines()
    assert " INFO request done request_id=r1 surface=chat model=o/n principal=a/k " in written
    for part in (
        *("stream=true", "total_ms=1000", "prompt_tokens=7", "completion_tokens=24576"),
        *("reasoning_tokens=0", "cached_tokens=0", "finish_reason=length", "queue_ms=0"),
        *("prefill_ms=0", "decode_ms=1234", "client_gone=false"),
    ):
        assert f" {part}" in written


def test_what_became_of_drafts(log: io.StringIO) -> None:
    """It is told where there were any, and nothing stands in its place where there were none."""
    for drafts in ("12 of 20", ""):
        done = Done(prompt_tokens=7, completion_tokens=9, finish_reason="stop", drafts=drafts)
        line().done(done)
    guessed, plain = log.getvalue().splitlines()
    assert ' decode_ms=0 drafts="12 of 20" client_gone=false' in guessed
    assert "drafts" not in plain


def test_n143_rejected(log: io.StringIO) -> None:
    line().rejected(
        status=400,
        error_type="invalid_request_error",
        code="context_length_exceeded",
        detail='too "long"\nby far',
        prompt_len=9,
        max=5,
    )
    [written] = log.getvalue().splitlines()
    assert " WARN request rejected " in written
    assert " principal=anonymous stream=false " in written
    assert ' detail="too \\"long\\"\\nby far" prompt_len=9 max=5' in written
    assert " status=400 error_type=invalid_request_error code=context_length_exceeded " in written


def test_n143_a_body_that_cannot_be_read_has_no_model(log: io.StringIO) -> None:
    end = line(model=None, place=("POST", "/v1/chat/completions"))
    end.rejected(status=415, error_type="invalid_request_error", code="x", detail="no JSON")
    assert " method=POST path=/v1/chat/completions principal=" in log.getvalue()
    assert "model" not in log.getvalue()


def test_n143_failed(log: io.StringIO) -> None:
    line().failed(code="model_recovering", detail="the process was lost", completion_tokens=12)
    [written] = log.getvalue().splitlines()
    assert " ERROR request failed " in written
    assert written.endswith(
        'code=model_recovering detail="the process was lost" completion_tokens=12'
    )


def test_n143_client_left(log: io.StringIO) -> None:
    gone = Done(prompt_tokens=7, completion_tokens=3, finish_reason="cancelled", client_gone=True)
    line().done(gone)
    [written] = log.getvalue().splitlines()
    assert "finish_reason=cancelled" in written
    assert "client_gone=true" in written


UNSEEN = ["\n", "\r", "\x1b[2J", "\x85", "\u2028", "\x9b", "\ud800", "\x7f", "\0"]


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_is_logged_stays_on_its_line(format: str) -> None:
    """Nobody writes lines of his own into the log, steers a terminal, or breaks the encoding."""
    stream = io.StringIO()
    configure_logging(logging.INFO, "json" if format == "json" else "text", stream)
    logger = logging.getLogger("helexa.neuron.somewhere")
    for odd in UNSEEN:
        logger.info("a%sb", odd, extra={"fields": {"said": f"c{odd}d", "list": [odd]}})
    written = stream.getvalue()
    assert len(written.splitlines()) == len(UNSEEN)
    assert all(line.encode().decode().isprintable() for line in written.splitlines())
    if format == "json":
        said = [json.loads(line) for line in written.splitlines()]
        assert [record["message"] for record in said] == [f"a{odd}b" for odd in UNSEEN]
        assert [record["list"] for record in said] == [[odd] for odd in UNSEEN]


def test_lines_of_a_traceback_are_indented(log: io.StringIO) -> None:
    try:
        raise RuntimeError("x\n2026-01-01 INFO not so")
    except RuntimeError:
        logging.getLogger("helexa.x").exception("failed")
    first, *rest = log.getvalue().splitlines()
    assert first.endswith(" ERROR failed")
    assert rest[-1] == "  2026-01-01 INFO not so"
    assert all(line.startswith("  ") for line in rest)


@pytest.mark.parametrize("format", ["text", "json"])
def test_n144_secrets(format: str) -> None:
    stream = io.StringIO()
    configure_logging(TRACE, "json" if format == "json" else "text", stream)
    logger = logging.getLogger("helexa.neuron.somewhere")
    for level in (TRACE, logging.DEBUG, logging.INFO, logging.ERROR):
        logger.log(level, "Authorization: Bearer %s", "s3cret")
        logger.log(level, "x", extra={"fields": {"detail": "token hf_abcdefgh1234 is bad"}})
    try:
        raise RuntimeError("bearer s3cret refused")
    except RuntimeError:
        logger.exception("failed")
    assert "s3cret" not in stream.getvalue()
    assert "abcdefgh" not in stream.getvalue()
    assert stream.getvalue().count("***") >= 9
    if format == "json":
        assert all(json.loads(written) for written in stream.getvalue().splitlines())


def test_what_stands_for_a_key_is_no_secret(log: io.StringIO) -> None:
    logging.getLogger("helexa.x").warning("supply 'Authorization: Bearer <key>'")
    assert "'Authorization: Bearer <key>'" in log.getvalue()


def test_a_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    configure_logging(logging.INFO, "json", stream)
    line().failed(code=None, detail="a\nb")
    logging.getLogger("helexa.x").debug("not shown")
    [written] = stream.getvalue().splitlines()
    said = json.loads(written)
    assert (said["level"], said["message"], said["detail"]) == ("ERROR", "request failed", "a\nb")
    assert "code" not in said
    assert said["time"].endswith("Z")


def test_configuring_again_replaces_what_was(log: io.StringIO) -> None:
    other = io.StringIO()
    configure_logging(logging.WARNING, "text", other)
    logging.getLogger("helexa.x").warning("once")
    assert (log.getvalue(), other.getvalue().count("once")) == ("", 1)
    assert isinstance(JsonFormatter(), logging.Formatter)


@pytest.mark.parametrize(
    ("code", "detail", "logged"),
    [
        ("template_render_failed", "could not render it: no secret", "could not render it"),
        ("unsupported_parameter", "the schema uses 'secret', which is odd", "the schema uses"),
        ("unsupported_parameter", 'it refers to "secret"', "it refers to"),
        ("invalid_value", "n must be at least 1; send more", "n must be at least 1; send more"),
        ("model_not_found", "model 'o/n' is not loaded", "model 'o/n' is not loaded"),
        (None, "ValueError: 'a'", "ValueError: 'a'"),
    ],
)
def test_n144_what_a_detail_may_say(
    log: io.StringIO, code: str | None, detail: str, logged: str
) -> None:
    line().rejected(status=400, error_type="invalid_request_error", code=code, detail=detail)
    line().failed(code=code, detail=detail)

    written = log.getvalue()
    assert written.count(f" detail={as_word(logged)}") == 2
    assert "secret" not in written
