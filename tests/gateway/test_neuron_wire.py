"""Our neuron as any gateway sees it: each answer that a gateway reads, field by field.

A reader in another language is stricter than ours: a count that is a float, or a key that is null
where it should be absent, is an answer that it cannot read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway.real_fleet import held, shelf
from tests.neuron.daemon_process import TINY, Daemon, started
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

LAB = "lab:team/tiny"
PATH_OF = f"/models/{LAB.replace(':', '%3A').replace('/', '%2F')}"
HELLO = [{"role": "user", "content": "Hello!"}]
Shape = Any
"""A type; a list of one shape; or shapes by key, where `key?` may be absent and is never null."""

ACTIVATION = {
    "state": str,
    "pending": [str],
    "in_progress": (str, type(None)),
    "completed": [str],
    "failed": [{"model_id": str, "error": str}],
}
COUNTS = (
    "in_flight queue_depth max_in_flight max_queue_depth rejected_queue_full rejected_timeout "
    "rejected_per_principal anon_in_flight anon_max_in_flight rejected_anon_yield "
    "rejected_kv_timeout rejected_kv_unservable kv_budget_mb kv_available_mb"
).split()
LOAD = {"id": str, **dict.fromkeys(COUNTS, int), "tok_s_prefill": float, "tok_s_decode": float}
READING = dict.fromkeys(["index", "vram_used_mb", "vram_free_mb", "utilization_pct", "temp_c"], int)
HOST = {"memory_total_mb": int, "memory_available_mb": int, "load_1m": float}
ANSWERS: dict[str, Shape] = {
    "/discovery": {
        **{"hostname": str, "os": str, "kernel": str, "harnesses": [str]},
        **{"cuda_version": (str, type(None)), "driver_version": (str, type(None))},
        "devices": [
            {"index": int, "name": str, "vram_total_mb": int, "compute_capability": str},
        ],
        **{"cuda_unavailable_reason?": str, "max_prompt_tokens": int},
        "host?": {"cpu_name": str, "cpu_count": int, "memory_total_mb": int},
    },
    "/models": [
        {
            **{"id": str, "harness": str, "status": str, "devices": [int], "vram_used_mb": int},
            **{"capabilities": [str], "tool_call": bool, "reasoning": bool},
            "limit?": {"context": int, "input?": int, "output": int},
            "servable?": {"ok": bool, "reason?": str, "detail?": str},
            "spec?": {"model_id": str},
        }
    ],
    "/health": {
        **{"uptime_secs": int, "devices": [READING], "activation": ACTIVATION},
        **{"models": [LOAD], "host?": HOST},
    },
    f"{PATH_OF}/endpoint": {"url": str},
    f"{PATH_OF}/capabilities": {"capabilities": [str]},
}


@pytest.fixture(scope="module")
def neuron(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("neuron")
    default = f'default_models = [{{ model_id = "{LAB}" }}]\n'
    bare = folder / "lab" / "team" / "bare"
    config = default + shelf(folder, "tiny")
    bare.mkdir()
    (bare / "README.md").write_text("no weights")
    with started(folder, config) as daemon:
        yield daemon


def differences(value: Any, shape: Shape, at: str = "") -> list[str]:
    """Where a value is not of a shape."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{at}: {value!r} is no list"]
        return [
            d for i, item in enumerate(value) for d in differences(item, shape[0], f"{at}[{i}]")
        ]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{at}: {value!r} is no object"]
        known = {key.removesuffix("?") for key in shape}
        needed = {key for key in shape if not key.endswith("?")}
        found = [f"{at}.{key}: unknown" for key in value.keys() - known]
        found += [f"{at}.{key}: missing" for key in needed - value.keys()]
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name in value:
                found += differences(value[name], inner, f"{at}.{name}")
        return found
    kinds = shape if isinstance(shape, tuple) else (shape,)
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    return [] if fits else [f"{at}: {value!r} is no {shape}"]


@pytest.mark.parametrize("path", ANSWERS)
def test_each_field(neuron: Daemon, path: str) -> None:
    answer = neuron.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert differences(said, ANSWERS[path]) == []
    assert said, "an empty answer shows nothing"


def test_the_values_that_gateways_go_by(neuron: Daemon) -> None:
    discovery, (listed,), health = (
        neuron.http.get(path).json() for path in ("/discovery", "/models", "/health")
    )
    assert discovery["harnesses"] == ["candle"] and discovery["max_prompt_tokens"] > 0
    indices = [device["index"] for device in discovery["devices"]]
    assert indices == [reading["index"] for reading in health["devices"]]
    assert (listed["id"], listed["harness"], listed["status"]) == (LAB, "candle", "loaded")
    assert (listed["devices"], listed["capabilities"]) == (indices[:1], ["text"])
    assert listed["servable"] == {"ok": True} and listed["vram_used_mb"] > 0
    assert listed["limit"]["context"] >= listed["limit"]["output"] > 0
    assert health["activation"]["state"] == "ready"
    assert health["activation"]["completed"] == [LAB]
    (load,) = health["models"]
    assert (load["id"], load["in_flight"], load["queue_depth"]) == (LAB, 0, 0)
    assert load["max_in_flight"] > 0 and load["max_queue_depth"] > 0
    port = httpx.URL(neuron.url).port
    for name in (PATH_OF, "/models/team%2Ftiny"):
        url = neuron.http.get(f"{name}/endpoint").json()["url"]
        assert httpx.URL(url).port == port and httpx.URL(url).host in ("localhost", "127.0.0.1")
    assert neuron.http.get("/models/nobody%2Fnothing/endpoint").status_code == 404
    assert neuron.http.get("/models/nobody%2Fnothing/capabilities").status_code == 404


def load_body(model: str, **more: Any) -> dict[str, Any]:
    """As a gateway writes it: nulls included."""
    usual = {"model_id": model, "harness": "candle", "quant": None, "tensor_parallel": None}
    return {**usual, "devices": None, **more}


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "loaded": (load_body(LAB), 400, "already loaded"),
    "loaded by its bare name": (load_body(LAB, devices=[0]), 400, "already loaded"),
    "no files": (load_body("lab:team/nobody"), 422, "repo_fetch_failed"),
    "no weights": (load_body("lab:team/bare"), 422, "empty_repo"),
    "no such source": (load_body("nowhere:team/x"), 400, "unknown source"),
    "no such harness": (load_body(LAB, harness="x"), 400, "unknown harness 'x'"),
    "no id": ({}, 422, "model_id"),
}


@pytest.mark.parametrize(("body", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_a_load_that_is_refused(
    neuron: Daemon, body: dict[str, Any], status: int, says: str
) -> None:
    answer = neuron.http.post("/models/load", json=body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
    error = answer.json()["error"]
    if says in ("repo_fetch_failed", "empty_repo"):
        assert error["kind"] == says
    assert neuron.status(LAB) == "loaded"


def test_loads_and_unloads(neuron: Daemon) -> None:
    for model, status in (("nobody/nothing", 404), (TINY, 404)):
        answer = neuron.http.post("/models/unload", json={"model_id": model})
        assert (answer.status_code, type(answer.json()["error"])) == (status, str)
    with held(neuron), neuron.connect(model=LAB, max_tokens=4):
        wait_until(lambda: neuron.load(LAB)["in_flight"] == 1)
        answer = neuron.http.post("/models/unload", json={"model_id": LAB})
        assert (answer.status_code, type(answer.json()["error"])) == (409, str)
    wait_until(lambda: neuron.load(LAB)["in_flight"] == 0)
    answer = neuron.http.post("/models/unload", json={"model_id": LAB})
    assert (answer.status_code, answer.json()) == (200, {"status": "unloaded"})
    assert neuron.http.get("/models").json() == neuron.http.get("/health").json()["models"] == []
    assert neuron.http.get(f"{PATH_OF}/endpoint").status_code == 404
    assert neuron.http.get(f"{PATH_OF}/capabilities").json() == {"capabilities": ["text"]}
    chat = neuron.http.post("/v1/chat/completions", json={"model": LAB, "messages": HELLO})
    assert (chat.status_code, chat.json()["error"]["code"]) == (404, "model_not_found")
    answer = neuron.http.post("/models/load", json=load_body(LAB, devices=[0]))
    assert (answer.status_code, answer.json()) == (200, {"status": "loaded"})


CALL = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": {"path": "x"}}}
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
TURNS = [
    *({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Read x."}),
    {"role": "assistant", "content": "Reading.", "tool_calls": [CALL]},
    {"role": "tool", "content": "127.0.0.1", "tool_call_id": "c1"},
]


def test_what_a_gateway_sends_is_answered(neuron: Daemon) -> None:
    """Translated turns, in which the arguments of a tool call are an object, with all headers."""
    headers = {
        "x-helexa-account-id": "acct-1",
        "x-helexa-key-id": "key-1",
        "x-request-id": "req_1",
        "accept-encoding": "identity",
    }
    body = {"model": LAB, "messages": TURNS, "tools": [TOOL], "max_tokens": 4, "ignore_eos": True}
    answer = neuron.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == "req_1"
    assert "content-encoding" not in answer.headers
    usage = answer.json()["usage"]
    assert usage["completion_tokens"] == 4
    counted = neuron.http.post("/tokenize", json={**body, "add_generation_prompt": True})
    assert counted.json()["count"] == usage["prompt_tokens"]
    for path, sent in (
        ("/v1/completions", {"prompt": "Once"}),
        ("/v1/responses", {"input": "Once", "max_output_tokens": 4}),
    ):
        answer = neuron.http.post(path, json={"model": LAB, "max_tokens": 4, **sent})
        assert answer.status_code == 200, answer.text
        assert type(answer.json()["usage"]["total_tokens"]) is int
    image = {"model": LAB, "prompt": "a cat"}
    answer = neuron.http.post("/v1/images/generations", json=image)
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["code"]
