"""What a request may hold, as a client sees it: how long an answer gets, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from helexa.neuron.config import (
    AdmissionConfig,
    ContextLimitConfig,
    EngineSection,
    NeuronConfig,
    PrefixCacheConfig,
)
from tests.neuron.daemons import HELLO, TINY, Daemon, running, with_tiny
from tests.waiting import wait_until

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CONTEXT = 64
KV_BYTES = 5120  # of a token of the built-in model, in float32
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


def engine(
    *, seats: int = 2, enabled: bool = True, headroom_mb: int = 0, prefix_cache_mb: int = 16
) -> NeuronConfig:
    """A daemon that has nothing loaded."""
    limit = ContextLimitConfig(
        enabled=enabled, activation_headroom_mb=headroom_mb, min_free_floor_mb=0
    )
    section = EngineSection(
        admission=AdmissionConfig(max_in_flight=seats),
        context_limit=limit,
        prefix_cache=PrefixCacheConfig(budget_mb=prefix_cache_mb),
    )
    return NeuronConfig(port=0, engine=section)


def listed(daemon: Daemon) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the list of models says of the one there is, and what `/health` says of its load."""
    (info,), (load,) = (
        daemon.http.get("/models").json(),
        daemon.http.get("/health").json()["models"],
    )
    return info, load


@pytest.fixture(scope="module")
def unlimited() -> Iterator[Daemon]:
    """No limit is derived, and the cache holds 409 of the model's 4096 tokens."""
    with running(engine(enabled=False)) as daemon:
        assert daemon.load(TINY, kv_mb=2).status_code == 200
        yield daemon


def test_without_a_limit_memory_is_all_that_is_in_the_way(unlimited: Daemon) -> None:
    info, load = listed(unlimited)
    assert ("limit" in info, load["kv_budget_mb"], info["servable"]) == (False, 2, {"ok": True})
    counted = unlimited.post("/tokenize", model=TINY, prompt="Hi").json()
    assert counted["max_model_len"] == 4096
    body = {"model": TINY, "prompt": [50] * 10, "ignore_eos": True}
    assert unlimited.post(TEXT, **body, max_tokens=450).json()["usage"]["completion_tokens"] == 450


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens"), [(2000, 1), (10, 4000)], ids=["prompt", "answer"]
)
def test_n111_a_request_above_the_budget_is_told_so(
    unlimited: Daemon, stream: bool, prompt_tokens: int, max_tokens: int
) -> None:
    body = {"model": TINY, "prompt": [50] * prompt_tokens, "max_tokens": max_tokens}
    before = listed(unlimited)[1]["rejected_kv_unservable"]
    answer = unlimited.post(TEXT, **body, stream=stream)
    assert answer.status_code == 413
    assert "retry-after" not in answer.headers
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "prompt_too_long_for_vram")
    required_mb = KV_BYTES * (prompt_tokens + max_tokens) // 2**20
    assert (error["required_mb"], error["budget_mb"]) == (required_mb, 2)
    assert listed(unlimited)[1]["rejected_kv_unservable"] == before + 1


def test_the_longest_request_that_is_admitted_runs(unlimited: Daemon) -> None:
    """Its claim is rounded down to the whole budget; the pool has the page more that it needs."""
    longest = (3 * 2**20 - 1) // KV_BYTES
    for prompt_tokens in (longest - 1, 1):
        answer = unlimited.post(
            TEXT,
            model=TINY,
            prompt=[50] * prompt_tokens,
            max_tokens=longest - prompt_tokens,
            ignore_eos=True,
        )
        assert answer.json()["usage"]["total_tokens"] == longest


def test_claims_that_were_rounded_down_do_not_displace_each_other(unlimited: Daemon) -> None:
    """Two requests of 1.95 MiB pay 1 MiB each, out of 2."""
    body = {"model": TINY, "prompt": [50] * 10, "max_tokens": 390, "ignore_eos": True}
    headers = {"x-helexa-account-id": "a", "x-helexa-key-id": "k"}
    status = unlimited.slot().model.status
    before = status().preemptions
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(unlimited.http.post, TEXT, json=body, headers=headers) for _ in range(2)
        ]
        wait_until(lambda: status().running == 2, 60)
        used = [answer.result().json()["usage"]["total_tokens"] for answer in asked]
    assert used == [400, 400]
    wait_until(lambda: status().running == 0, 60)
    assert status().preemptions == before


def test_without_a_limit_the_model_and_the_static_cap_still_count(unlimited: Daemon) -> None:
    error = unlimited.post(TEXT, model=TINY, prompt=[50] * 4096).json()["error"]
    assert (error["code"], error["max"]) == ("context_length_exceeded", 4095)


@pytest.fixture(scope="module")
def roomy() -> Iterator[Daemon]:
    """Nothing is loaded; a file that allows 0 seats means 1."""
    with running(engine(seats=0)) as daemon:
        yield daemon


@pytest.mark.parametrize("kv_mb", [1, 64, 100])
def test_the_cache_is_as_large_as_asked_and_no_seats_are_one(roomy: Daemon, kv_mb: int) -> None:
    assert roomy.load(TINY, kv_mb=kv_mb).status_code == 200
    info, load = listed(roomy)
    model = roomy.slot().model.info
    answer = roomy.post(TEXT, model=TINY, prompt="Hi", max_tokens=2)
    roomy.unload(TINY)
    assert (load["max_in_flight"], answer.status_code) == (1, 200)
    assert (load["kv_budget_mb"], load["kv_available_mb"]) == (kv_mb, kv_mb)
    assert info["servable"] == {"ok": True}
    held_mb = model.weight_mb + kv_mb + 16 + 1  # the prefix cache, and one MiB for each seat
    assert info["vram_used_mb"] == pytest.approx(held_mb, abs=1)


def test_a_cache_that_cannot_be_had_is_refused_by_the_name_of_its_key(roomy: Daemon) -> None:
    answer = roomy.load(TINY, kv_mb=10**8)
    assert answer.status_code == 400
    assert f"kv_mb is {10**8}, only " in answer.json()["error"]
    assert "kv_memory_mb" not in answer.text
    for nothing in (0, -1):
        error = roomy.load(TINY, kv_mb=nothing).json()["error"]
        assert error["code"] == "invalid_request_body"
        assert f"kv_mb: expected a positive integer, got {nothing}" in error["message"]
    assert roomy.models() == []


def test_n133_a_model_without_room_is_loaded_and_says_so() -> None:
    with running(engine(headroom_mb=10**8)) as daemon:
        refused = daemon.load(TINY, kv_mb=1)
        assert (refused.status_code, "kv_mb is 1, only 0" in refused.text) == (400, True)
        assert daemon.load(TINY).json() == {"status": "loaded"}
        info, load = listed(daemon)
        assert (info["status"], load["kv_budget_mb"], "limit" in info) == ("loaded", 0, False)
        assert (info["servable"]["ok"], info["servable"]["reason"]) == (False, "insufficient_vram")
        body = {"model": TINY, "prompt": [50] * 10, "ignore_eos": True}
        priced = daemon.post(TEXT, **body, max_tokens=500)
        assert (priced.status_code, priced.json()["error"]["budget_mb"]) == (413, 0)
        free = daemon.post(TEXT, **body, max_tokens=190)
        assert free.json()["usage"]["completion_tokens"] == 190
