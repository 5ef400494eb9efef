"""The control routes of daemons with nothing loaded, or with what is hard to come by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import helexa
from helexa.neuron.admission import Admission
from helexa.neuron.config import (
    AdmissionConfig,
    ContextLimitConfig,
    EngineSection,
    NeuronConfig,
    SourceConfig,
)
from helexa.neuron.discovery import Sampler
from helexa.neuron.ids import ModelSpec
from helexa.neuron.limits import Limits, Shape
from helexa.neuron.nvml import Cards
from helexa.neuron.slots import Slot
from helexa.protocol.control import BuildInfo, DiscoveryResponse, HealthResponse
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.neuron.daemons import TINY, Daemon, started
from tests.waiting import wait_until

JSON = {"content-type": "application/json"}
BROKEN = Cards(unavailable="driver/library mismatch: reboot the host")


@pytest.fixture(scope="module", params=["no engine", "nothing loaded"])
def at(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    harnesses = () if request.param == "no engine" else NeuronConfig().harnesses
    environ = {"HELEXA_BUILD_SHA": "0123456789", "NEURON_MAX_PROMPT_TOKENS": "99"}
    sampler = Sampler(read_cards=Cards)
    config = NeuronConfig(port=0, harnesses=harnesses)
    with started(config, environ, sampler=sampler) as running:
        yield running


def test_n028_n031_a_daemon_says_what_it_is(at: Daemon) -> None:
    version = BuildInfo.read(at.http.get("/version").json())
    assert version.package_version == helexa.__version__
    assert (version.git_sha, version.git_dirty) == ("0123456", False)
    said = at.http.get("/discovery").json()
    found = DiscoveryResponse.read(said)
    assert "cuda_unavailable_reason" not in said
    assert (found.cuda_version, found.max_prompt_tokens) == (None, 99)
    assert found.harnesses == at.neuron.config.harness_names
    assert [device.compute_capability for device in found.devices] == ["cpu"]


def test_n029_n030_nothing_is_loaded(at: Daemon) -> None:
    health = HealthResponse.read(at.http.get("/health").json())
    assert (health.models, health.activation.state) == ((), "ready")
    assert at.http.get("/models").json() == []
    assert at.http.get("/v1/models").json() == {"object": "list", "data": []}
    assert at.http.head("/health").content == b""


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"model": "m", "messages": "x"}', JSON, 422, "invalid_request_body"),
        (b"{not json", JSON, 400, "malformed_json"),
        (b"{}", {}, 415, "unsupported_media_type"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"[" * 129 + b"]" * 129, JSON, 400, "malformed_json"),
    ],
    ids=["shape", "no json", "no type", "text", "deep"],
)
def test_n019_body_shapes(
    at: Daemon, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = at.http.post("/v1/chat/completions", content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert answer.headers["x-request-id"].startswith("req_")


def test_n020_n055_null_content_is_accepted(at: Daemon) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]
    answer = at.post("/v1/chat/completions", model="o/n", messages=messages)
    if at.neuron.config.harness_names:
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
    else:
        told = {"error": "harness 'candle' is not enabled on this neuron"}
        assert (answer.status_code, answer.json()) == (503, told)
        told = {"error": "unknown harness 'candle'"}
        loaded = at.load("o/n")
        assert (loaded.status_code, loaded.json()) == (400, told)


def test_n023_routes(at: Daemon) -> None:
    assert at.http.get("/nope").json()["error"]["code"] == "unknown_url"
    wrong = at.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert at.http.options("/health").status_code == 405


def test_n032_a_broken_driver_refuses_loads() -> None:
    with started(sampler=Sampler(read_cards=lambda: BROKEN)) as at:
        answer = at.load(TINY)
        assert answer.status_code == 503
        assert answer.json() == {"error": BROKEN.unavailable, "code": "cuda_unavailable"}
        assert at.http.get("/discovery").json()["cuda_unavailable_reason"] == BROKEN.unavailable


def test_a_daemon_on_its_way_out_takes_no_load() -> None:
    with started() as at:
        at.neuron.stop_taking()
        answer = at.load(TINY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")
        assert answer.json()["error"]["code"] == "shutting_down"


def test_n018_routes_answer_while_models_are_loaded(tmp_path: Path) -> None:
    hub = FakeHub({"config.json": b"{}", "model.safetensors": b""})
    with serving(hub) as hub.endpoint:
        source = SourceConfig(endpoint=hub.endpoint, cache_dir=str(tmp_path))
        config = NeuronConfig(
            port=0,
            default_models=(ModelSpec(model_id="own:org/name"), ModelSpec(model_id=TINY)),
            engine=EngineSection(sources={"own": source}),
        )
        with hub.changed, started(config) as at:  # which the hub would need to answer
            wait_until(lambda: at.neuron.activation.status.in_progress is not None)
            activation = at.http.get("/health").json()["activation"]
            assert activation["state"] == "pre_warming"
            assert (activation["in_progress"], activation["pending"]) == ("own:org/name", [TINY])
            assert at.http.get("/models").json() == []


def test_n038_a_recovering_model_is_listed(at: Daemon) -> None:
    info = SimpleNamespace(
        weight_mb=4.0,
        pool_mb=6.0,
        capabilities=("text", "vision"),
        tool_markers=("<tool_call>", "</tool_call>"),
        reasoning_markers=None,
    )
    host: Any = SimpleNamespace(state="recovering", detail="exit")
    model: Any = SimpleNamespace(info=info)
    spec = ModelSpec(model_id="o/n", tensor_parallel=2)
    limits = Limits.of(ContextLimitConfig())
    door = Admission("o/n", AdmissionConfig())
    slot = Slot(spec, (0, 1), model, host, door, limits, Shape(1024, 4096), kv_budget_mb=6)
    slot.changed("recovering")
    at.neuron.registry.slots["o/n"] = slot
    try:
        (listed,) = at.http.get("/models").json()
        assert at.http.get("/models/o%2Fn/endpoint").status_code == 200
        assert at.http.get("/health").json()["models"] == []
        answer = at.http.get("/models/o%2Fn/capabilities")
        assert answer.json() == {"capabilities": ["text", "vision"]}
    finally:
        del at.neuron.registry.slots["o/n"]
    assert listed == {
        "id": "o/n",
        "harness": "candle",
        "status": "recovering",
        "devices": [0, 1],
        "vram_used_mb": 10,
        "capabilities": ["text", "vision"],
        "tool_call": True,
        "reasoning": False,
        "spec": {"model_id": "o/n", "tensor_parallel": 2},
    }


def test_runtime_variables_reach_requests() -> None:
    environ = {"NEURON_MAX_PROMPT_TOKENS": "64", "NEURON_USE_CHAT_TEMPLATE": "no"}
    with started(environ=environ) as at:
        assert at.load(TINY).status_code == 200
        (info,) = at.http.get("/models").json()
        assert info["limit"] == {"context": 64, "input": 32, "output": 32}
        long = at.post("/v1/completions", model=TINY, prompt=[50] * 33)
        assert long.json()["error"]["code"] == "context_length_exceeded"
        assert long.json()["error"]["max"] == 32
        asked = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
        ids = at.post("/tokenize", model=TINY, messages=asked).json()["tokens"]
        text = at.post("/detokenize", model=TINY, tokens=ids).json()["prompt"]
    turns = "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
    assert text == f"{turns}<|im_start|>assistant\n"
