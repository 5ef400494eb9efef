"""What a request may hold, as a client sees it: how long an answer gets, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.neuron.daemons import HELLO, TINY, Daemon, running, with_tiny

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CONTEXT = 64
LIST: Any = {"type": "array", "items": {"type": "string"}, "minItems": 1}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": LIST}}


@pytest.fixture(scope="module")
def clamped() -> Iterator[Daemon]:
    """No request may become longer than `CONTEXT`; the model could take 4096."""
    environ = {"NEURON_MAX_PROMPT_TOKENS": str(CONTEXT)}
    with running(with_tiny(seats=2, places=2), environ=environ) as daemon:
        yield daemon


def last_chunk(daemon: Daemon, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Why a stream finished, and its usage."""
    text = daemon.http.post(path, json={**body, "stream": True}).text
    frames = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(frame) for frame in frames]
    (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return reasons[-1], usage


@pytest.mark.parametrize("asked", [{"max_tokens": 500}, {"max_tokens": 55}, {}])
@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_n062_an_answer_ends_with_the_context(
    clamped: Daemon, path: str, asked: dict[str, int]
) -> None:
    if path == TEXT:
        body: dict[str, Any] = {"prompt": [50] * 10, "max_tokens": CONTEXT, **asked}
    else:
        body = {"messages": HELLO, **asked}
    body |= {"model": TINY, "ignore_eos": True}
    whole = clamped.http.post(path, json=body).json()
    for reason, usage in (
        (whole["choices"][0]["finish_reason"], whole["usage"]),
        last_chunk(clamped, path, body),
    ):
        assert reason == "length"
        assert usage["total_tokens"] == CONTEXT
        assert path == CHAT or usage["completion_tokens"] == 54


def test_a_shorter_answer_is_as_long_as_asked(clamped: Daemon) -> None:
    body = {"model": TINY, "prompt": [50] * 10, "max_tokens": 53, "ignore_eos": True}
    assert clamped.post(TEXT, **body).json()["usage"]["completion_tokens"] == 53


def test_n062_responses_end_with_the_context(clamped: Daemon) -> None:
    said = clamped.post(RESPONSES, model=TINY, input="Hi", ignore_eos=True).json()
    assert said["usage"]["total_tokens"] <= CONTEXT


def test_a_constrained_answer_is_closed_within_the_context(clamped: Daemon) -> None:
    body = {"model": TINY, "messages": HELLO, "response_format": FORM, "seed": 0}
    answer = clamped.post(CHAT, **body, temperature=1.0, max_tokens=600).json()
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), list)
    assert answer["usage"]["total_tokens"] <= CONTEXT


def test_the_room_that_is_published_is_the_room_there_is(clamped: Daemon) -> None:
    (info,) = clamped.http.get("/models").json()
    counted = clamped.post("/tokenize", model=TINY, prompt="Hi").json()
    assert info["limit"]["context"] == counted["max_model_len"] == CONTEXT
