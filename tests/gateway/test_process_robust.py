"""Gateways as processes of their own: what they never write down, slow clients, the end."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import SocketStream

from tests.gateway.front import BODY, CHAT_PATH
from tests.gateway.gateway_process import GatewayProcess, gateway
from tests.gateway.mock_setups import EVENTS, reporting, streaming
from tests.gateway.mocks import CHAT, MockNeuron, Reply, Seen, gone, mock_neuron, model
from tests.http.wire import Peer, post, settle

pytestmark = pytest.mark.anyio

SECRETS = {
    name: f"s3cret-{name}-0451"
    for name in ("client", "wrong", "apikey", "node", "upstream", "query", "basic")
}
KEYS = f"""
[[entitlements.keys]]
key = "{SECRETS["client"]}"
account_id = "acct-1"
key_id = "key-1"
"""
MESSAGES = "/v1/messages"
LEDGER = "budgets.db"
STREAMED = json.dumps(BODY | {"stream": True}).encode()


@pytest.fixture
def anyio_backend() -> str:
    """The gateway is a process of its own, whatever this one runs on."""
    return "asyncio"


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client, once the gateway has a healthy node."""
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        with anyio.fail_after(20):
            while (await http.get("/health")).json()["nodes"]["healthy"] == 0:  # noqa: ASYNC110  # another process
                await anyio.sleep(0.02)
        yield http


@contextmanager
def started(
    folder: Path, mock: MockNeuron, config: str = "", **environ: str
) -> Iterator[GatewayProcess]:
    """A gateway before a mock, to which it shows a bearer."""
    neuron = {"name": "mock-node", "endpoint": mock.url, "bearer": SECRETS["node"]}
    fields = ", ".join(f'{name} = "{value}"' for name, value in neuron.items())
    settings = {
        "CORTEX_NEURONS": f"[{{{fields}}}]",
        "CORTEX_ENTITLEMENTS__LEDGER": f"sqlite://{folder / LEDGER}",
    }
    with gateway(folder, {}, config, settings | environ) as process:
        yield process


# ----------------------------------------------------------------------------- what is not written

UPSTREAM = f"""
[upstream]
enabled = true
url = "{gone()}"
bearer = "{SECRETS["upstream"]}"
timeout_secs = 0.5
"""


def chatty(mock: MockNeuron) -> None:
    """It repeats, in its refusals, whatever header it was shown."""

    async def refuse(seen: Seen) -> Reply:
        told = seen.head.decode().replace("Bearer ", "")  # not even that it is one
        return Reply(500, (json.dumps({"error": {"message": told}}).encode(),))

    reporting([model("test-model"), model("chatty")])(mock)
    mock.on("GET /discovery", refuse)
    mock.on("POST /v1/completions", refuse)
    mock.on("POST /models/load", refuse)


async def everything(http: httpx.AsyncClient) -> list[str]:
    """All sorts of requests with all sorts of secrets; what came back."""
    asks: list[tuple[str, str, dict[str, str]]] = [
        ("POST", CHAT_PATH, {"authorization": f"Bearer {SECRETS['client']}"}),
        ("POST", MESSAGES, {"x-api-key": SECRETS["client"]}),
        ("POST", "/v1/completions", {"authorization": f"Bearer {SECRETS['client']}"}),
        ("POST", CHAT_PATH, {"authorization": f"Bearer {SECRETS['wrong']}"}),
        ("POST", MESSAGES, {"x-api-key": SECRETS["apikey"]}),
        ("POST", f"{CHAT_PATH}?key={SECRETS['query']}", {}),
        ("GET", "/v1/models", {"authorization": f"Basic {SECRETS['basic']}"}),
        ("GET", "/nope", {"authorization": f"bearer {SECRETS['client']}"}),
        ("POST", "/health", {"authorization": f"bearer {SECRETS['client']}"}),
        ("DELETE", "/v1/models", {"authorization": f"bearer {SECRETS['client']}"}),
    ]
    told = []
    for method, path, headers in asks:
        body = BODY | {"max_tokens": 5} if method == "POST" else None
        answer = await http.request(method, path, json=body, headers=headers)
        if path != "/v1/completions":  # which is the neuron's own answer, passed on
            told.append(f"{answer.status_code} {answer.headers} {answer.text}")
    return told


LINE = {
    "text": re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ .*|  .*"),
    "json": re.compile(r'\{"time": ".*\}'),
}


@pytest.mark.parametrize("form", LINE)
async def test_secrets_are_never_written(form: str, tmp_path: Path) -> None:
    """Neither to a log at its lowest level, nor to metrics, nor to answers. And a line is one."""
    environ = {"HELEXA_LOG": "trace", "HELEXA_LOG_FORMAT": form}
    forged = "a\n2026-01-01T00:00:00.000Z INFO forged\r\x1b[2J\u2028b"
    async with mock_neuron(chatty) as mock:
        with started(tmp_path, mock, KEYS + UPSTREAM, **environ) as process:
            async with asking(process.url) as http:
                told = await everything(http)
                told.append((await http.get(process.metrics_url)).text)
                answer = await http.post(CHAT_PATH, json=BODY | {"model": forged})
                assert answer.status_code == 404
            process.end()
            log = process.words()
    assert log.count("inbound body") >= 3  # so it is the lowest level
    assert "node mock-node answered 500" in log
    for name, secret in SECRETS.items():
        assert secret not in log, name
        assert not any(secret in text for text in told), name
    assert all(LINE[form].fullmatch(line) for line in log.splitlines())
    if form == "json":
        assert any(json.loads(line).get("requested") == forged for line in log.splitlines())


# ------------------------------------------------------------------------------------ slow clients


def resident_mb(process: GatewayProcess) -> float:
    """How much memory it holds."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


class Flood:
    """The parts of an endless answer; ``taken`` is how many bytes of all such were sent."""

    part = b"data: " + b"x" * 65536 + b"\n\n"
    taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            Flood.taken += len(self.part)
            yield self.part

    def __len__(self) -> int:
        return 2


async def test_g098_clients_that_read_nothing_fill_no_memory(tmp_path: Path) -> None:
    """Ten of them, with no end of bytes to be had; then they are cut, one by one."""

    async def chat(_: Seen) -> Reply:
        return Reply(200, Flood(), EVENTS)  # type: ignore[arg-type]  # it has no end

    config = KEYS + "[proxy]\nwrite_timeout_secs = 1\n"
    async with mock_neuron() as mock:
        mock.on(CHAT, chat)
        with started(tmp_path, mock, config) as process:
            async with asking(process.url) as http:
                before = resident_mb(process)
                port = int(process.url.rpartition(":")[2])
                streams: list[SocketStream] = []
                for _ in range(10):
                    streams.append(await anyio.connect_tcp("127.0.0.1", port))
                    await streams[-1].send(post(STREAMED, path=CHAT_PATH))
                await settle(lambda: mock.running[CHAT] == 10)
                taken = -1
                while taken != Flood.taken:
                    taken = Flood.taken
                    await anyio.sleep(0.3)
                assert resident_mb(process) - before < 20
                assert (await http.get("/health")).status_code == 200
                await settle(lambda: mock.running[CHAT] == 0, 15)
                for stream in streams:
                    await stream.aclose()


# ------------------------------------------------------------------------------------------ the end


def ledger(folder: Path) -> tuple[int, int, int]:
    """Of the one key: spent, reserved, and how many reservations there are."""
    with closing(sqlite3.connect(folder / LEDGER)) as book:
        spent, reserved = book.execute("SELECT spent, reserved FROM helexa_ledger").fetchone()
        (held,) = book.execute("SELECT count(*) FROM helexa_reservations").fetchone()
    return spent, reserved, held


@asynccontextmanager
async def streaming_one(process: GatewayProcess) -> AsyncIterator[Peer]:
    """A stream of which two tokens have come, paid for by a key."""
    port = int(process.url.rpartition(":")[2])
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        peer = Peer(stream)
        bearer = f"authorization: Bearer {SECRETS['client']}"
        await peer.send(post(STREAMED, bearer, path=CHAT_PATH))
        assert b"token1" in await peer.until(b"token1")
        yield peer


async def send(process: GatewayProcess, *numbers: int) -> None:
    """Send signals, one after another."""
    for number in numbers:
        process.process.send_signal(number)
        await anyio.sleep(0.2)


async def ended(process: GatewayProcess) -> int:
    """The exit status, once there is one."""
    return await anyio.to_thread.run_sync(process.process.wait, 20)


async def test_g184_a_drain_that_is_long_enough(tmp_path: Path) -> None:
    """The stream is complete, a request on an open connection is refused, no new one is taken."""
    async with mock_neuron(streaming(20, 0.05)) as mock:
        with started(tmp_path, mock, KEYS) as process:
            async with asking(process.url) as http, streaming_one(process) as peer:
                process.process.send_signal(signal.SIGTERM)
                await anyio.sleep(0.1)
                answer = await http.post(CHAT_PATH, json=BODY)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert answer.json()["error"]["code"] == "shutting_down"
                with pytest.raises(httpx.ConnectError):
                    await http.get("/health")
                rest = await peer.until(b"\0never\0")
                assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert await ended(process) == 0
    assert ledger(tmp_path) == (20, 0, 0)


@pytest.mark.parametrize(
    ("drain_s", "signals"),
    [(0.3, (signal.SIGTERM,)), (60, (signal.SIGINT, signal.SIGTERM))],
    ids=["too short", "a second signal"],
)
async def test_g184_a_drain_that_cuts(tmp_path: Path, drain_s: float, signals: Any) -> None:
    """What was streamed until then is charged, and the exit status says that something was cut."""
    environ = {"CORTEX_GATEWAY__DRAIN_TIMEOUT_SECS": str(drain_s)}
    async with mock_neuron(streaming(1000, 0.1)) as mock:
        with started(tmp_path, mock, KEYS, **environ) as process:
            async with asking(process.url), streaming_one(process) as peer:
                await send(process, *signals)
                rest = await peer.until(b"\0never\0")
                assert b"[DONE]" not in rest
                assert not rest.endswith(b"0\r\n\r\n")
                got = 2 + len(re.findall(rb'"content":"token', rest))
            assert await ended(process) == 1
        await settle(lambda: mock.running[CHAT] == 0)
    spent, reserved, held = ledger(tmp_path)
    assert (reserved, held) == (0, 0)
    assert got <= spent <= got + 2
