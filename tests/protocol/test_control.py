from __future__ import annotations

import json

import pytest

from helexa.protocol.control import (
    ActivationStatus,
    BuildInfo,
    DeviceHealth,
    DeviceInfo,
    DiscoveryResponse,
    FailedActivation,
    HealthResponse,
    HostHealth,
    HostInfo,
    Limit,
    ModelInfo,
    ModelLoad,
    Servable,
    Wire,
)
from helexa.protocol.json_text import to_json

FULL: list[Wire] = [
    BuildInfo(package_version="1", git_sha="0123456", features=("cuda",)),
    DiscoveryResponse(
        hostname="h",
        devices=(DeviceInfo(index=0, name="d", vram_total_mb=1, compute_capability="8.9"),),
        harnesses=("candle",),
        cuda_unavailable_reason="driver/library mismatch",
        max_prompt_tokens=16384,
        host=HostInfo(cpu_name="c", cpu_count=2, memory_total_mb=3),
    ),
    HealthResponse(
        uptime_secs=1,
        devices=(DeviceHealth(index=0, vram_used_mb=1, vram_free_mb=2),),
        activation=ActivationStatus(
            state="pre_warming",
            pending=("a",),
            in_progress="b",
            failed=(FailedActivation(model_id="c", error="no"),),
        ),
        models=(ModelLoad(id="m", in_flight=1, queue_depth=2, tok_s_decode=1.5),),
        host=HostHealth(memory_total_mb=1, memory_available_mb=1, load_1m=0.5),
    ),
    ModelInfo(
        id="m",
        status="loaded",
        devices=(0, 1),
        vram_used_mb=5,
        capabilities=("text",),
        limit=Limit(context=4096, input=2048, output=2048),
        tool_call=True,
        servable=Servable(ok=False, reason="insufficient_vram"),
        spec={"model_id": "m", "devices": [0, 1], "tensor_parallel": 2},
    ),
]


@pytest.mark.parametrize("thing", FULL, ids=lambda thing: type(thing).__name__)
def test_n036_round_trip(thing: Wire) -> None:
    assert type(thing).read(json.loads(to_json(thing.to_wire()))) == thing


def test_n036_readers() -> None:
    health = HealthResponse.read({"uptime_secs": 0, "devices": []})
    assert health.models == ()
    assert health.activation == ActivationStatus(state="ready")
    load = ModelLoad.read({"id": "m", "in_flight": 1, "queue_depth": 2})
    others = load.to_wire().keys() - {"id", "in_flight", "queue_depth"}
    assert len(others) == 14
    assert all(load.to_wire()[name] == 0 for name in others)
    assert BuildInfo.read({"package_version": "1"}).git_sha == "unknown"


def test_nulls_are_absent_and_unknown_keys_ignored() -> None:
    sent = {"uptime_secs": 3, "activation": None, "models": None, "devices": None, "later": {}}
    assert HealthResponse.read(sent) == HealthResponse(uptime_secs=3)
    old = {"id": "m", "harness": "candle", "status": "loaded", "cost": None, "limit": None}
    assert ModelInfo.read(old).devices == ()


def test_an_older_fleet_is_understood() -> None:
    health = {
        "uptime_secs": 0,
        "devices": [],
        "activation": {
            "state": "ready",
            "pending": [],
            "in_progress": None,
            "completed": [],
            "failed": [],
        },
    }
    assert HealthResponse.read(health).activation.state == "ready"
    limit = {"context": 50, "output": 16}
    info = ModelInfo.read({"id": "m", "status": "odd", "limit": limit})
    assert info.limit == Limit(context=50, output=16)
    part = ModelInfo.read({"id": "m", "status": "loaded", "limit": {"context": 9, "output": None}})
    assert part.limit == Limit(context=9)
    assert info.status == "odd"


def test_absent_keys_are_left_out_where_they_must() -> None:
    bare = ModelInfo(id="m", status="recovering").to_wire()
    assert bare == {
        "id": "m",
        "harness": "candle",
        "status": "recovering",
        "devices": [],
        "vram_used_mb": None,
        "tool_call": False,
        "reasoning": False,
    }
    assert Servable(ok=True).to_wire() == {"ok": True}
    assert "input" not in Limit(context=1, output=1).to_wire()
    assert Limit(context=1, input=0, output=1).to_wire()["input"] == 0


def test_n031_reason_is_absent_when_healthy() -> None:
    found = DiscoveryResponse(hostname="h").to_wire()
    assert "cuda_unavailable_reason" not in found
    assert found["cuda_version"] is None


def test_n029_models_are_always_there() -> None:
    assert HealthResponse(uptime_secs=0).to_wire() == {
        "uptime_secs": 0,
        "devices": [],
        "activation": {
            "state": "ready",
            "pending": [],
            "in_progress": None,
            "completed": [],
            "failed": [],
        },
        "models": [],
    }
