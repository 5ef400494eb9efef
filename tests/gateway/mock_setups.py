"""What a mock neuron can be made into: see `tests.gateway.mocks.mock_neuron`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from tests.gateway.mocks import (
    CHAT,
    IMAGES,
    INFERENCE,
    MockNeuron,
    Reply,
    Seen,
    Setup,
    as_json,
    model,
)

EVENTS = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
READY: dict[str, Any] = {
    "state": "ready",
    "pending": [],
    "in_progress": None,
    "completed": [],
    "failed": [],
}
HEALTH: dict[str, Any] = {"uptime_secs": 0, "devices": [], "activation": READY}
TOTAL_MB = 32768


def frame(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def chunk(model: str, choices: list[Any], **more: Any) -> dict[str, Any]:
    """One chunk of a streamed chat."""
    usual = {"id": "chatcmpl-stream-001", "object": "chat.completion.chunk"}
    return {**usual, "created": 1700000000, "model": model, "choices": choices, **more}


def streaming(n: int, delay_s: float = 0.0, usage: tuple[int, int] | None = None) -> Setup:
    """MS(n, d), or MSU(n, d, p, c) with ``usage``: chats are streamed, one chunk per delay."""

    async def chat(seen: Seen) -> Reply:
        name = seen.json["model"]
        frames = []
        for i in range(n):
            choice = {"index": 0, "delta": {"content": f"token{i}"}, "finish_reason": None}
            frames.append(frame(chunk(name, [choice])))
        if usage is not None:
            prompt, completion = usage
            counts = {"prompt_tokens": prompt, "completion_tokens": completion}
            counts["total_tokens"] = prompt + completion
            frames.append(frame(chunk(name, [], usage=counts)))
        return Reply(200, (*frames, b"data: [DONE]\n\n"), EVENTS, delay_s)

    return lambda mock: mock.on(CHAT, chat)


def reporting(
    models: Sequence[dict[str, Any]], health: Mapping[str, Any] | None = None, **more: Any
) -> Setup:
    """MH(models, health): these models, and this health, changed by ``more``."""

    def setup(mock: MockNeuron) -> None:
        async def answer(_: Seen) -> Reply:
            return as_json(mock.health)

        mock.models = list(models)
        mock.health = {**(HEALTH if health is None else health), **more}
        mock.on("GET /health", answer)

    return setup


def capable(models: Sequence[dict[str, Any]], table: Mapping[str, list[str]]) -> Setup:
    """MCAP(models, table): MH that knows what some models can do; 404 for the others."""

    def setup(mock: MockNeuron) -> None:
        async def answer(seen: Seen) -> Reply:
            if seen.model not in table:
                return as_json({"error": "this node cannot say"}, 404)
            return as_json({"capabilities": table[seen.model]})

        reporting(models)(mock)
        mock.on("GET /models/{id}/capabilities", answer)

    return setup


def loading(free_mb: Sequence[int], delay_s: float = 0.0, status: int = 200) -> Setup:
    """ML(free MiB per device, delay, status): nothing loaded, devices, and a load that answers.

    Loaded models are listed; what is free is what the test says, in ``mock.devices``.
    """

    def setup(mock: MockNeuron) -> None:
        async def discovery(_: Seen) -> Reply:
            return as_json(
                {"hostname": "mock", "os": "linux", "kernel": "6", "devices": _gpus(mock)}
            )

        async def health(_: Seen) -> Reply:
            return as_json(HEALTH | {"devices": _readings(mock)})

        async def load(seen: Seen) -> Reply:
            await anyio.sleep(delay_s)
            if status == 200:
                body = seen.json
                mock.models.append(model(body["model_id"], devices=body["devices"] or []))
            return as_json({"status": "loaded"} if status == 200 else {"error": "no"}, status)

        mock.models = []
        mock.devices = {i: (TOTAL_MB, free) for i, free in enumerate(free_mb)}
        mock.on("GET /discovery", discovery)
        mock.on("GET /health", health)
        mock.on("POST /models/load", load)

    return setup


def _gpus(mock: MockNeuron) -> list[dict[str, Any]]:
    return [
        {"index": i, "name": "GPU", "vram_total_mb": total, "compute_capability": "9.0"}
        for i, (total, _) in mock.devices.items()
    ]


def _readings(mock: MockNeuron) -> list[dict[str, Any]]:
    rest = {"utilization_pct": 0, "temp_c": 30}
    return [
        {"index": i, "vram_used_mb": total - free, "vram_free_mb": free, **rest}
        for i, (total, free) in mock.devices.items()
    ]


def refusing(
    status: int, retry_after_s: int | None = None, code: str | None = None, message: str = "busy"
) -> Setup:
    """MR(status, ra, code): every inference route answers this."""
    fields = () if retry_after_s is None else (("retry-after", str(retry_after_s)),)
    error = {"message": message, "type": "rate_limit_error", "code": code, "param": None}
    reply = as_json({"error": error}, status, fields)

    def setup(mock: MockNeuron) -> None:
        for route in INFERENCE:
            mock.on(route, reply)

    return setup


def painting(units: float | None = 9.437184) -> Setup:
    """MI: images; ``units`` are told in the usage, unless they are None."""

    async def images(seen: Seen) -> Reply:
        timing = {"encode_ms": 1673, "denoise_ms": 7894, "decode_ms": 1835, "steps": 9}
        usage = {"helexa_image_units": units, "helexa_timing": {**timing, "cfg": False}}
        answer = {"created": 1700000000, "data": [{"b64_json": "aGVsZXhh"}]}
        if units is not None:
            answer["usage"] = usage
        return as_json({**answer, "echo_seed": seen.json.get("seed")})

    return lambda mock: mock.on(IMAGES, images)
