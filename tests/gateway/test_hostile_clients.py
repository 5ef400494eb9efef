"""Clients that want no answer, but past the keys, into another's request, or all the memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from helexa.gateway.catalogue import Catalogue
from tests.gateway.front import BODY, CHAT_PATH, Front, front, key
from tests.gateway.mocks import CHAT, MockNeuron, mock_neuron
from tests.http.test_heads import BARE_LINE_FEEDS, SMUGGLING
from tests.http.test_hostile import BAD_CHUNKS, all_answers
from tests.http.wire import Answer, ask, connected, post, settle

pytestmark = pytest.mark.anyio

KEYS = (key("sk-good", "acct-1", "key-1"),)
BEARER = "authorization: Bearer sk-good"
WIRE = json.dumps(BODY).encode()
GOOD = post(WIRE, BEARER, path=CHAT_PATH)
CHUNKED = f"POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{BEARER}\r\ntransfer-encoding: chunked\r\n\r\n"
HASTY = {"header_timeout_s": 0.4, "body_timeout_s": 0.4, "linger_s": 0.1}


@asynccontextmanager
async def guarded(**more: object) -> AsyncIterator[tuple[Front, MockNeuron]]:
    """A gateway that wants a key, and its neuron."""
    async with (
        mock_neuron() as mock,
        front(mock, keys=KEYS, require_auth=True, **more) as gw,  # type: ignore[arg-type]  # any option
    ):
        yield gw, mock


# ------------------------------------------------------------------------------ another's request


def aimed(head: bytes) -> bytes:
    """A head of the collection, with a key and for the route that asks a neuron."""
    head = head.replace(b" / HTTP", f" {CHAT_PATH} HTTP".encode(), 1)
    return head.replace(b"host: x", f"host: x\r\n{BEARER}".encode(), 1)


async def test_g108_a_smuggled_request_reaches_no_neuron() -> None:
    """Whatever head the first one has, the one behind it is not a request of its own."""
    async with guarded(limits={"max_body_bytes": 60_000}) as (gw, mock):
        for name, head in (SMUGGLING | BARE_LINE_FEEDS).items():
            async with connected(gw.server) as peer:
                await peer.send(aimed(head) + b"0\r\n\r\n" + GOOD)
                assert await all_answers(peer) == [400], name
        for name, body in BAD_CHUNKS.items():
            async with connected(gw.server) as peer:
                await peer.send(CHUNKED.encode() + body + GOOD)
                (status,) = await all_answers(peer)
                assert status in (400, 413), name
        assert mock.requests == []
        assert (await ask(gw.server, GOOD)).status == 200


TRICKS = {
    "extension": b"48;x=1\r\n" + WIRE + b"\r\n0\r\n\r\n",
    "leading_zeros": b"000048\r\n" + WIRE + b"\r\n0\r\n\r\n",
    "trailers": b"48\r\n" + WIRE + b"\r\n0\r\ncontent-length: 5\r\nhost: y\r\n\r\n",
}
assert len(WIRE) == 0x48


@pytest.mark.parametrize("body", TRICKS.values(), ids=TRICKS)
async def test_what_a_chunked_body_says_beside_its_content_is_dropped(body: bytes) -> None:
    async with guarded() as (gw, mock), connected(gw.server) as peer:
        await peer.send(CHUNKED.encode() + body + GOOD)
        assert [(await peer.answer()).status for _ in range(2)] == [200, 200]
        assert [seen.body for seen in mock.seen(CHAT)] == [WIRE, WIRE]
        lines = mock.seen(CHAT)[0].head.lower().split(b"\r\n")
        assert [line for line in lines if line.startswith(b"content-length")] == [
            b"content-length: 72"
        ]
        assert not any(line.startswith((b"transfer-encoding", b"trailer")) for line in lines)


async def test_pipelined_requests_keep_their_own_principals() -> None:
    """What one request said of itself says nothing of the next one."""
    async with mock_neuron() as mock, front(mock, keys=KEYS) as gw, connected(gw.server) as peer:
        bare = post(WIRE, path=CHAT_PATH)
        await peer.send(GOOD + bare + GOOD)
        assert [(await peer.answer()).status for _ in range(3)] == [200] * 3
        accounts = [seen.header("x-helexa-account-id") for seen in mock.seen(CHAT)]
        assert accounts == ["acct-1", None, "acct-1"]


SPOOFS = {
    "plain": ("x-helexa-account-id: evil", "x-helexa-key-id: evil"),
    "case": ("X-HELEXA-Account-ID: evil", "X-Helexa-Key-Id: evil"),
    "underscores": ("x_helexa_account_id: evil", "x-helexa_key-id: evil"),
    "twice": ("x-helexa-account-id: evil", "x-helexa-account-id: evil2"),
    "empty": ("x-helexa-account-id:", "x-helexa-key-id:"),
    "named by connection": ("connection: x-helexa-account-id, x-helexa-key-id",),
    "both": ("connection: X-Helexa-Account-Id", "x-helexa-account-id: evil"),
}


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/messages"])
async def test_only_the_gateway_says_who_is_asking(path: str) -> None:
    body = json.dumps(BODY | {"max_tokens": 5}).encode()
    async with mock_neuron() as mock, front(mock, keys=KEYS) as gw:
        for name, fields in SPOOFS.items():
            for bearer in ((BEARER,), ()):
                mock.requests.clear()
                assert (await ask(gw.server, post(body, *fields, *bearer, path=path))).status == 200
                (seen,) = mock.seen(CHAT)
                told = [line for line in seen.head.lower().split(b"\r\n") if b"helexa" in line]
                known = [b"x-helexa-account-id: acct-1", b"x-helexa-key-id: key-1"]
                assert told == (known if bearer else []), name


async def test_no_header_of_a_hop_reaches_the_neuron() -> None:
    fields = (
        *("connection: close ,\tx-secret", "x-secret: 1", "upgrade: h2c", "te: trailers"),
        *("keep-alive: 5", "proxy-authorization: Basic x", "proxy-connection: close"),
        *("expect: 100-continue", "accept-encoding: gzip", "http2-settings: AA", "trailer: x"),
    )
    async with guarded() as (gw, mock), connected(gw.server) as peer:
        await peer.send(post(WIRE, BEARER, *fields, path=CHAT_PATH))
        answer = await peer.answer()
        assert (await peer.answer() if answer.status == 100 else answer).status == 200
        names = [line.partition(b":")[0] for line in mock.seen(CHAT)[0].head.split(b"\r\n")[1:-2]]
        assert sorted(names) == [
            *(b"accept-encoding", b"content-length", b"content-type", b"host", b"http2-settings"),
            *(b"x-helexa-account-id", b"x-helexa-key-id", b"x-request-id"),
        ]


# ----------------------------------------------------------------------------------- past the keys

PUBLIC = ("/", "/health", "/health?a=b", "http://evil.example/health", "http://evil.example")
LOCKED = (
    *("//", "//health", "/health/", "/./health", "/health/.", "/health/..", "/health/../v1/models"),
    *(
        "/health/..%2fv1/models",
        "/%2e%2e/health",
        "/%68ealth",
        "/health%2f",
        "/health;x",
        "/HEALTH",
    ),
    *("/health%00", "/health%20", "/v1/models", "/v1/models/", "/v1/%6dodels", "/v1/models/../x"),
    *("/v1//models", "http://evil.example/v1/models", "http://evil.example/health/v1/models"),
    *("/nope", "/metrics", "/v1/models/test-model", "/v1/models/..%2f..%2fhealth", "/%", "/%zz"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "options", "get", "FOO")


async def status_of(gw: Front, method: str, target: str, *fields: str) -> Answer:
    """What a bare request gets."""
    lines = "".join(f"{field}\r\n" for field in fields)
    wire = f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{lines}\r\n"
    async with connected(gw.server) as peer:
        await peer.send(wire.encode())
        return await peer.answer(head_only=method == "HEAD")


async def test_no_path_gets_past_the_keys() -> None:
    """Without a key there are the two public paths, and nothing else, however it is written."""
    async with guarded() as (gw, mock):
        for target in PUBLIC:
            answer = await status_of(gw, "GET", target)
            assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok"), target
            assert (await status_of(gw, "HEAD", target)).status == 200, target
        for target in LOCKED:
            for method in METHODS:
                answer = await status_of(gw, method, target)
                assert answer.status == 401, (method, target)
                assert answer.header("www-authenticate") == "Bearer"
        for path in (CHAT_PATH, "/v1/%6dessages", "/v1/messages/count_tokens", "/v1/responses"):
            assert (await ask(gw.server, post(WIRE, path=path))).status == 401, path
        assert mock.requests == []


async def test_other_hosts_and_versions_are_asked_nothing() -> None:
    """A gateway is no open proxy: whatever host a target names, the answer is its own."""
    async with guarded() as (gw, mock), mock_neuron() as evil:
        target = f"http://{evil.host}{CHAT_PATH}"
        answer = await ask(gw.server, post(WIRE, BEARER, path=target))
        assert (answer.status, mock.hits, evil.requests) == (200, 1, [])
        async with connected(gw.server) as peer:
            await peer.send(GOOD.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            answer = await peer.answer()
            assert (answer.status, answer.header("connection")) == (200, "close")
            assert await peer.ended()


KEYLESS = (
    *("authorization: Basic c2stZ29vZA==", "authorization: Bearer", "authorization: Bearer  "),
    *("authorization: sk-good", "authorization: Bearersk-good", "authorization:\tsk-good"),
    *("authorization: Token sk-good", "cookie: authorization=sk-good", "x-api-key:"),
    *("api-key: sk-good", "authorization: Bearer sk-good2", "authorization: Bearer SK-GOOD"),
)


async def test_what_is_no_key_is_no_key() -> None:
    async with guarded() as (gw, mock):
        for field in KEYLESS:
            answer = await ask(gw.server, post(WIRE, field, path=CHAT_PATH))
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), field
        assert (await ask(gw.server, post(WIRE, path=f"{CHAT_PATH}?key=sk-good"))).status == 401
        two = ("authorization: Bearer sk-wrong", BEARER)
        assert (await ask(gw.server, post(WIRE, *two, path=CHAT_PATH))).status == 401
        assert mock.requests == []
        for field in ("authorization: bEARER   sk-good ", "x-api-key:  sk-good "):
            assert (await ask(gw.server, post(WIRE, field, path=CHAT_PATH))).status == 200


async def test_g010_cyclic_aliases_are_looked_up_once() -> None:
    cyclic = Catalogue(aliases={"a": "b", "b": "a", "self": "self", "c": "test-model"})
    async with mock_neuron() as mock, front(mock, catalogue=cyclic) as gw:
        for name, target in (("a", "b"), ("b", "a"), ("self", "self")):
            answer = await gw.post(model=name)
            assert answer.status_code == 404
            assert f"model '{target}' not found" in answer.json()["error"]["message"]
        assert (await gw.post(model="c")).status_code == 200
        listed = {entry["id"] for entry in (await gw.http.get("/v1/models")).json()["data"]}
        assert listed == {"c", "test-model"}
        assert (await gw.http.get("/v1/models/a")).status_code == 404


# ------------------------------------------------------------------------------- memory and time


async def test_g105_endless_bodies_are_not_read() -> None:
    """One that says how long it is, one in chunks; neither is read further than the limit."""
    async with guarded(limits={"max_body_bytes": 100_000}, patience={"linger_s": 0.2}) as (
        gw,
        mock,
    ):
        endless = (
            f"POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n{BEARER}\r\ncontent-length: {10**15}\r\n"
        )
        for head, part in (
            (endless + "\r\n", b"x" * 50_000),
            (CHUNKED, b"c350\r\n" + b"x" * 50_000 + b"\r\n"),
        ):
            async with connected(gw.server) as peer:
                sent = 0
                await peer.send(head.encode())
                try:
                    with anyio.fail_after(10):
                        while sent < 10**9:
                            await peer.send(part)
                            sent += len(part)
                except anyio.BrokenResourceError:
                    pass
                assert 0 < sent < 10**9
        await settle(lambda: gw.server.connections == 0)
        assert mock.requests == []
        assert (await ask(gw.server, GOOD)).status == 200


async def test_a_refusal_of_a_large_body_arrives() -> None:
    async with guarded(limits={"max_body_bytes": 100_000}) as (gw, _):
        for path, code in ((CHAT_PATH, "request_too_large"), ("/v1/messages", "request_too_large")):
            answer = await ask(gw.server, post(b"x" * 100_001, BEARER, path=path))
            assert (answer.status, answer.error["code"]) == (413, code)
        assert (await ask(gw.server, post(b"x" * 10**6, path=CHAT_PATH))).status == 401


async def test_all_bodies_together_have_a_limit() -> None:
    """Who comes when it is reached is told to come back; what has ended makes room."""
    half = json.dumps(BODY | {"pad": "x" * 60_000}).encode()
    async with guarded(limits={"max_buffered_bytes": 100_000}) as (gw, mock):
        budget = gw.server.config.body_budget
        assert budget is not None
        async with connected(gw.server) as peer:
            await peer.send(post(half, BEARER, path=CHAT_PATH)[:-1])
            await settle(lambda: budget.held_bytes > 60_000)
            for path in (CHAT_PATH, "/v1/messages"):
                answer = await ask(gw.server, post(half, BEARER, path=path))
                assert (answer.status, answer.header("retry-after")) == (503, "1")
                assert answer.error["message"] == "gateway is at its memory limit"
            assert (await ask(gw.server, GOOD)).status == 200
        await settle(lambda: budget.held_bytes == 0)
        assert (await ask(gw.server, post(half, BEARER, path=CHAT_PATH))).status == 200
        assert mock.hits == 2


async def test_what_is_made_of_a_body_has_a_limit() -> None:
    """A body of brackets takes many times its own size once it is read."""
    pieces = json.dumps(BODY | {"pad": [{}] * 10_000}).encode()
    async with guarded(limits={"max_buffered_bytes": 1_000_000}) as (gw, mock):
        budget = gw.server.config.body_budget
        assert budget is not None
        for path in (CHAT_PATH, "/v1/messages"):
            answer = await ask(gw.server, post(pieces, BEARER, path=path))
            assert answer.status == 503
            assert answer.error["message"] == "gateway is at its memory limit"
        await settle(lambda: budget.held_bytes == 0)
        flat = json.dumps(BODY | {"pad": "x" * len(pieces)}).encode()
        assert (await ask(gw.server, post(flat, BEARER, path=CHAT_PATH))).status == 200
        assert mock.hits == 1


SLOW = {
    "head": GOOD[:40],
    "one byte": b"P",
    "body": GOOD[:-5],
    "chunks": CHUNKED.encode() + b"5\r\nab",
    "no body": GOOD[: -len(WIRE)],
}


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
async def test_slow_clients_cost_no_other_anything(sent: bytes) -> None:
    """A hundred that stop in the middle; others are served meanwhile, then they are let go."""
    async with guarded(patience=HASTY) as (gw, mock):
        statuses: list[int] = []

        async def dawdle() -> None:
            async with connected(gw.server) as peer:
                await peer.send(sent)
                statuses.append((await peer.answer()).status)

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(dawdle)
            await settle(lambda: gw.server.connections > 50)
            assert (await ask(gw.server, GOOD)).status == 200
        assert statuses == [408] * 100
        await settle(lambda: gw.server.connections == 0)
        assert (mock.hits, gw.node().own) == (1, {})
        assert gw.server.config.body_budget is not None
        assert gw.server.config.body_budget.held_bytes == 0


async def test_a_head_that_trickles_gets_no_more_time() -> None:
    async with guarded(patience=HASTY) as (gw, _), connected(gw.server) as peer:

        async def trickle() -> None:
            for at in range(len(GOOD)):
                await peer.send(GOOD[at : at + 1])
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            with anyio.fail_after(3):
                assert (await peer.answer()).status == 408
            tasks.cancel_scope.cancel()


async def test_a_model_with_half_a_character_is_answered() -> None:
    """No encoding takes it, so neither may an error's text, or the log."""
    async with guarded() as (gw, mock):
        for path in (CHAT_PATH, "/v1/messages", "/v1/images/generations"):
            wire = b'{"model":"\\ud800x","max_tokens":5,"messages":[{"role":"user","content":"x"}]}'
            answer = await ask(gw.server, post(wire, BEARER, path=path))
            assert answer.status == 404, path
            assert "\ud800x" in answer.error["message"]
        assert mock.hits == 0
        assert not [record for record in gw.log if record.exc_info]
