"""Keys and budgets through the front door."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helexa.gateway.config import WindowConfig
from tests.gateway.front import BODY, CHAT_PATH, Front, front, key
from tests.gateway.mock_setups import painting, refusing, streaming
from tests.gateway.mocks import CHAT, RESET, mock_neuron
from tests.http.wire import connected, post, settle

pytestmark = pytest.mark.anyio

GOOD = (key("sk-good", "acct-1", "key-1"),)
IMAGES = "/v1/images/generations"
PAINT = {"model": "test-model", "prompt": "a fox", "size": "1024x1024"}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def settled(gw: Front, count: int = 1) -> None:
    await settle(lambda: len(gw.outcomes) >= count)


async def test_g140_g142_keys_are_required() -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD, require_auth=True) as gw:
        for headers in ({}, bearer("sk-wrong"), {"authorization": "Basic x"}):
            answer = await gw.post(headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
            assert error["type"] == "invalid_request_error"
        assert mock.requests == []
        (told,) = [each.getMessage() for each in gw.log if "for its key" in each.getMessage()]
        assert "sk-" not in told


async def test_g141_g144_placeholders_and_spoofed_headers_are_nobody() -> None:
    spoofed = {"x-helexa-account-id": "attacker", "x-helexa-key-id": "attacker"}
    async with mock_neuron() as mock, front(mock) as gw:
        for headers in (bearer("sk-dummy-placeholder"), spoofed):
            assert (await gw.post(headers=headers)).status_code == 200
            assert mock.seen(CHAT)[-1].header("x-helexa-account-id") is None
            assert mock.seen(CHAT)[-1].header("x-helexa-key-id") is None


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/messages"])
async def test_g143_the_principal_is_the_keys(path: str) -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD, require_auth=True) as gw:
        headers = bearer("sk-good") | {"x-helexa-account-id": "attacker"}
        answer = await gw.post(path=path, headers=headers, max_tokens=9)
        assert answer.status_code == 200
        seen = mock.seen(CHAT)[0]
        assert seen.header("x-helexa-account-id") == "acct-1"
        assert seen.header("x-helexa-key-id") == "key-1"
        assert seen.head.lower().count(b"x-helexa-account-id") == 1


async def test_g145_g104_what_is_public() -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD, require_auth=True) as gw:
        statuses = {}
        for path in ("/health", "/", "/v1/models", "/v1/nope", "/health/"):
            statuses[path] = (await gw.http.get(path)).status_code
        assert statuses == {
            "/health": 200,
            "/": 200,
            "/v1/models": 401,
            "/v1/nope": 401,
            "/health/": 401,
        }


async def test_g146_x_api_key() -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD, require_auth=True) as gw:
        assert (await gw.post(headers={"x-api-key": "sk-good"})).status_code == 200
        both = {"x-api-key": "sk-good"} | bearer("sk-wrong")
        assert (await gw.post(headers=both)).status_code == 401


@pytest.mark.parametrize("rolling", [False, True], ids=["balance", "rolling"])
async def test_g147_g148_a_budget_is_exhausted(rolling: bool) -> None:
    window = WindowConfig("rolling", 3600) if rolling else WindowConfig()
    keys = (key("sk-cap", "acct-cap", "key-cap", hard_cap=10, window=window),)
    async with mock_neuron() as mock, front(mock, keys=keys) as gw:
        answer = await gw.post(headers=bearer("sk-cap"), max_tokens=1000)
        error = answer.json()["error"]
        assert (answer.status_code, mock.hits) == (429, 0)
        code = "rate_limit_exceeded" if rolling else "insufficient_quota"
        assert error["code"] == code
        assert ("retry-after" in answer.headers) == rolling
        if rolling:
            assert 1 <= int(answer.headers["retry-after"]) <= 3600


async def test_g149_g159_within() -> None:
    keys = (key("sk-meter", "acct-meter", "key-meter", hard_cap=1_000_000),)
    async with mock_neuron() as mock, front(mock, keys=keys) as gw:
        for _ in range(3):
            assert (await gw.post(headers=bearer("sk-meter"), max_tokens=50)).status_code == 200
        await settled(gw, 3)
        budget = await gw.spent("acct-meter", "key-meter")
        assert (budget.spent, budget.reserved, budget.hard_cap) == (45, 0, 1_000_000)
        assert gw.metric("cortex_spend_tokens_total") == [
            'cortex_spend_tokens_total{account="acct-meter",key="key-meter"} 45'
        ]


async def test_g150_fan_out() -> None:
    keys = (key("sk-fan", "acct-f", "key-f", hard_cap=100),)
    body = b'{"model":"test-model","max_tokens":20,"messages":[{"role":"user","content":"Hi"}]}'
    assert len(body) == 82
    async with mock_neuron() as mock, front(mock, keys=keys) as gw:
        codes: list[Any] = []
        for count in range(20):
            answer = await gw.http.post(CHAT_PATH, content=body, headers=bearer("sk-fan"))
            codes.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "insufficient_quota"
            await settled(gw, count + 1)
        assert codes == [200] * 5 + [429] * 15
        assert mock.hits == 5
        budget = await gw.spent("acct-f", "key-f")
        assert (budget.spent, budget.reserved) == (75, 0)


async def test_g160_nobody_is_not_metered() -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD) as gw:
        await gw.post()
        await settled(gw)
        assert (await gw.spent("nobody", "nobody")).spent == 0
        assert gw.metric("cortex_spend_tokens_total") == []


async def test_g161_responses() -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD) as gw:
        body = {"model": "test-model", "input": "Hi", "max_output_tokens": 20}
        await gw.post(body, "/v1/responses", bearer("sk-good"))
        await settled(gw)
        assert (await gw.spent("acct-1", "key-1")).spent == 10


async def test_g162_a_client_leaves_and_pays_what_it_got() -> None:
    async with mock_neuron(streaming(1000, 0.02)) as mock, front(mock, keys=GOOD) as gw:
        body = json.dumps(BODY | {"stream": True}).encode()
        async with connected(gw.server) as peer:
            await peer.send(post(body, "authorization: Bearer sk-good", path=CHAT_PATH))
            await peer.until(b"token6")
        await settled(gw)
        budget = await gw.spent("acct-1", "key-1")
        assert 7 <= budget.spent <= 12
        assert budget.reserved == 0


@pytest.mark.parametrize("kind", ["busy", "broken", "unreachable"])
async def test_g163_what_failed_costs_nothing(kind: str) -> None:
    async with mock_neuron() as mock, front(mock, keys=GOOD) as gw:
        if kind == "unreachable":
            mock.on(CHAT, RESET)
        else:
            refusing(503 if kind == "busy" else 500)(mock)
        answer = await gw.post(headers=bearer("sk-good"))
        assert answer.status_code == {"busy": 503, "broken": 500, "unreachable": 502}[kind]
        await settled(gw)
        budget = await gw.spent("acct-1", "key-1")
        assert (budget.spent, budget.reserved) == (0, 0)


async def test_g109_images() -> None:
    async with mock_neuron(painting()) as mock, front(mock) as gw:
        answer = await gw.post(PAINT, IMAGES, seed=42)
        said = answer.json()
        assert (answer.status_code, said["data"][0]["b64_json"]) == (200, "aGVsZXhh")
        assert said["usage"]["helexa_image_units"] == 9.437184
        assert said["usage"]["helexa_timing"]["steps"] == 9
        assert said["echo_seed"] == 42
        for name in ("requests", "generated"):
            (line,) = gw.metric(f"cortex_images_{name}_total")
            assert line.endswith(" 1")


@pytest.mark.parametrize(
    ("cap", "negative", "status"),
    [(100, "", 429), (1_000_000, "", 200), (12_000, "blurry", 429), (12_000, "", 200)],
    ids=["too poor", "rich", "twice", "once"],
)
async def test_g166_images_budget(cap: int, negative: str, status: int) -> None:
    keys = (key("sk-art", "acct-a", "key-a", hard_cap=cap),)
    async with mock_neuron(painting()) as mock, front(mock, keys=keys) as gw:
        answer = await gw.post(PAINT, IMAGES, bearer("sk-art"), negative_prompt=negative)
        assert (answer.status_code, mock.hits) == (status, int(status == 200))
        await settled(gw)
        budget = await gw.spent("acct-a", "key-a")
        assert (budget.spent, budget.reserved) == (9438 if status == 200 else 0, 0)
        if status == 429:
            assert answer.json()["error"]["code"] == "insufficient_quota"
        else:
            (line,) = gw.metric("cortex_spend_image_milliunits_total")
            assert line.endswith(" 9437")
            assert gw.metric("cortex_spend_tokens_total") == []


async def test_g166_a_small_picture_of_unknown_size_costs_a_whole_unit() -> None:
    keys = (key("sk-art", "acct-a", "key-a", hard_cap=5000),)
    async with mock_neuron(painting(None)) as mock, front(mock, keys=keys) as gw:
        small = {"model": "test-model", "prompt": "x", "size": "64x64", "num_steps": 1}
        assert (await gw.post(small, IMAGES, bearer("sk-art"))).status_code == 200
        await settled(gw)
        assert (await gw.spent("acct-a", "key-a")).spent == 1000
