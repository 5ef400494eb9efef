"""`helexa status` against what a gateway answers, over real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO

import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result

from helexa.cli.fleet_tables import fleet_tables
from helexa.cli.fleet_view import FleetView, metrics_guess, plain_text, read_hosts
from helexa.cli.main import cli
from helexa.cli.terminal import console
from helexa.errors import HelexaError
from helexa.gateway.api.health import health
from helexa.gateway.api.models import ModelRoutes
from helexa.gateway.catalogue import Cost, Profile
from helexa.gateway.fleet import Entry
from helexa.gateway.metrics import CONTENT_TYPE
from helexa.gateway.state import State
from helexa.http import Request, Response, Router, serving
from helexa.protocol.control import DeviceHealth, Limit, ModelLoad
from helexa.refusals import InvalidApiKey
from tests.cli.test_terminal import STYLE, terminal
from tests.gateway.fleets import SQ, catalogue, gateway, loaded, node

KEY = "sk-status-secret"


@dataclass
class FakeGateway:
    """The routes that `helexa status` asks; ``key`` is required if it is set."""

    state: State
    url: str = ""
    key: str | None = None
    instead: dict[str, Response] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        self.paths.append(request.path)
        if request.path in self.instead:
            return self.instead[request.path]
        public = request.path != "/v1/models"
        if not public and self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise InvalidApiKey
        router = Router()
        router.add("GET", "/health", health(self.state))
        router.add("GET", "/v1/models", ModelRoutes(self.state).all)
        router.add("GET", "/metrics", self.metrics)
        return await router(request)

    async def metrics(self, request: Request) -> Response:
        return Response(self.state.metrics.text(), media_type=CONTENT_TYPE)


@asynccontextmanager
async def fake_gateway() -> AsyncIterator[FakeGateway]:
    own = node(entries=loaded("test-model"), load={"test-model": LOAD}, device_health={0: DEVICE})
    async with gateway(own) as state:
        fake = FakeGateway(state)
        async with serving(fake.answer) as server:
            fake.url = server.url
            yield fake


LOAD = ModelLoad(
    id="test-model",
    in_flight=3,
    queue_depth=2,
    max_in_flight=8,
    max_queue_depth=8,
    rejected_queue_full=5,
    rejected_timeout=1,
    tok_s_prefill=950.0,
    tok_s_decode=47.5,
)
DEVICE = DeviceHealth(
    index=0, vram_used_mb=21504, vram_free_mb=11264, utilization_pct=73, temp_c=61
)


@pytest.fixture
def fake() -> Iterator[FakeGateway]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake_gateway()) as fake,
    ):
        yield fake


def run(*args: str, **environ: str) -> Result:
    environ = {"HELEXA_API_KEY": "", **environ}
    return CliRunner().invoke(cli, ["status", *args], prog_name="helexa", env=environ)


def test_g012_status(fake: FakeGateway) -> None:
    done = run("-e", fake.url)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        "Fleet health: {\n"
        '  "status": "ok",\n'
        '  "nodes": {\n'
        '    "healthy": 1,\n'
        '    "total": 1\n'
        "  }\n"
        "}\n"
        "\n"
        "Models:\n"
        "  test-model                               mock-node(loaded)\n"
    )
    assert fake.paths == ["/health", "/v1/models"]


def test_g012_nobody_there(free_tcp_port: int) -> None:
    done = run("-e", f"http://127.0.0.1:{free_tcp_port}")
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"error: cannot reach http://127\.0\.0\.1:\d+/health: .+\n", done.stderr)


def test_models_that_are_nowhere_and_in_two_places(fake: FakeGateway) -> None:
    fake.state.catalogue = catalogue(Profile("cold"))
    other = node("node-b", entries={"test-model": Entry("test-model", status="recovering")})
    fake.state.fleet.nodes["node-b"] = other
    lines = run("-e", fake.url).stdout.splitlines()
    assert lines[-2:] == [
        f"  {'cold':<40} -",
        f"  {'test-model':<40} mock-node(loaded), node-b(recovering)",
    ]


def test_one_document_has_both_answers(fake: FakeGateway) -> None:
    done = run("-e", fake.url.removeprefix("http://"), "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, set(found)) == (0, {"health", "models"})
    assert found["health"]["status"] == "ok"
    assert found["models"]["object"] == "list"
    assert [entry["id"] for entry in found["models"]["data"]] == ["test-model"]


def test_the_key_is_sent_and_never_shown(fake: FakeGateway) -> None:
    fake.key = KEY
    assert run("-e", fake.url, "--key", KEY).exit_code == 0
    assert run("-e", fake.url, HELEXA_API_KEY=f"{KEY}\n").exit_code == 0
    for done in (run("-e", fake.url), run("-e", fake.url, "--key", f"{KEY}x")):
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == f"error: {fake.url}/v1/models answered 401: invalid API key\n"


@pytest.mark.parametrize("key", [f"{KEY}\r\nx: y", f"{KEY}\x7f", f"{KEY}\u2028x"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: str) -> None:
    done = run("--key", key)
    assert done.exit_code == 2
    assert "cannot be sent" in done.stderr
    assert KEY not in done.stderr


def test_a_password_in_the_address_is_not_shown(free_tcp_port: int) -> None:
    done = run("-e", f"http://me:{KEY}@127.0.0.1:{free_tcp_port}")
    assert done.exit_code == 1
    assert KEY not in done.stderr


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Response(b"<html>", 200), "did not answer as a gateway does"),
        (Response(b"[]", 200), "did not answer as a gateway does"),
        (Response(b"[" * 100000, 200), "did not answer as a gateway does"),
        (Response(b"nope\nnope", 502), "answered 502: upstream returned 502"),
        (Response(b'{"error":{"message":"a\\nb\\u001b[31m"}}', 503), "answered 503: a b[31m"),
    ],
)
def test_what_is_no_gateway_is_one_line(fake: FakeGateway, answer: Response, says: str) -> None:
    fake.instead["/v1/models"] = answer
    done = run("-e", fake.url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("endpoint", ["http://", "ftp://x", "http://[::1", "http://x:99999"])
def test_what_is_no_address_is_one_line(endpoint: str) -> None:
    done = run("-e", endpoint)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://localhost:31313", "http://localhost:31314/metrics"),
        ("https://gw.lan", "http://gw.lan:31314/metrics"),
        ("http://[::1]:9", "http://[::1]:31314/metrics"),
    ],
)
def test_where_metrics_are_looked_for(base: str, expected: str) -> None:
    assert metrics_guess(base) == expected


# Tables.


def drawn(view: FleetView, width: int = 160) -> str:
    out = StringIO()
    screen = console(out)
    screen.width = width
    screen.print(fleet_tables(view))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def rows(text: str) -> list[list[str]]:
    """Lines as cells: two spaces part them."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


METRICS = """# HELP cortex_node_up Whether it answers.
# TYPE cortex_node_up gauge
cortex_node_up{node="gpu-b"} 0
cortex_node_up{node="gpu-a"} 1
cortex_device_vram_used_mb{node="gpu-a",device="0"} 21504
cortex_device_vram_free_mb{node="gpu-a",device="0"} 11264
cortex_device_utilization_pct{node="gpu-a",device="0"} 73
cortex_device_temp_c{node="gpu-a",device="0"} 61
cortex_model_in_flight{model="m",node="gpu-a"} 3
cortex_model_max_in_flight{model="m",node="gpu-a"} 8
cortex_model_queue_depth{model="m",node="gpu-a"} 2
cortex_model_tok_s_prefill{model="m",node="gpu-a"} 950
cortex_model_tok_s_decode{model="m",node="gpu-a"} 47.5
cortex_model_rejections_total{model="m",node="gpu-a",reason="queue_full"} 5
cortex_model_rejections_total{model="m",node="gpu-a",reason="wait_timeout"} 1
cortex_requests_total{model="m",node="gpu-a"} 12
some_other_metric 1
"""


def test_hosts_devices_and_loads_are_read_from_metrics() -> None:
    text = drawn(FleetView({"status": "ok"}, {}, read_hosts(METRICS)))
    found = rows(text)
    assert ["gpu-a", "up", "1", "21.0 GiB", "11.0 GiB", "1", "3", "2"] in found
    assert ["gpu-b", "DOWN", "0", "0", "0", "0"] in found
    assert ["gpu-a", "0", "21.0 GiB", "11.0 GiB", "73 %", "61 °C"] in found
    assert ["m", "gpu-a", "3/8", "2", "950", "47.5", "6"] in found


MODELS = {
    "data": [
        {
            "id": "m",
            "locations": [{"node": "a", "status": "loaded"}, {"node": "b", "status": "loading"}],
            "capabilities": ["text", "vision"],
            "tool_call": True,
            "max_model_len": 49152,
            "max_output_tokens": 8192,
            "cost": {"input": 0.5, "output": 1.5},
        },
        {"id": "free", "cost": {"input": 0, "output": 0.0}},
        "odd",
        {"locations": [5], "capabilities": 5, "cost": 5},
    ]
}


def test_models_are_shown_with_their_limits_and_prices() -> None:
    text = drawn(FleetView({}, MODELS, None, "nobody answers"))
    found = rows(text)
    assert [
        "m",
        "a(loaded), b(loading)",
        "49.2k",
        "8192",
        "text, vision, tool_call",
        "0.5, 1.5",
    ] in found
    assert ["free", "-", "free"] in found
    assert "no hosts, devices and loads: nobody answers" in text


def test_what_takes_no_requests_is_told() -> None:
    unservable = [{"node": "a", "model": "m", "reason": "insufficient_vram", "detail": SQ.detail}]
    health = {"status": "impaired", "nodes": {"healthy": 1, "total": 2}, "unservable": unservable}
    text = drawn(FleetView(health, {}, None))
    assert "The fleet is impaired: 1 of 2 nodes answer." in text
    assert f"m on a takes no requests: {SQ.detail}" in text


def test_a_name_cannot_take_over_the_terminal() -> None:
    evil = "m\x1b[2J\x9b31m"
    models = {"data": [{"id": evil, "locations": [{"node": evil, "status": evil}]}]}
    hosts = read_hosts(METRICS.replace('"gpu-a"', f'"{evil}"').replace('"m"', f'"{evil}"'))
    health = {"status": evil, "unservable": [{"model": evil, "node": evil, "detail": evil}]}
    view = FleetView(health, models, hosts)
    assert not {"\x1b", "\x9b"} & set(drawn(view) + plain_text(view))


@pytest.mark.parametrize("text", ["<html>", '{"a": 1}', "cortex_node_up{", "x{node=5} y"])
def test_what_is_no_text_for_prometheus(text: str) -> None:
    try:
        assert read_hosts(text) == {}
    except HelexaError as error:
        assert "no text for Prometheus" in error.message


def seen(text: str) -> str:
    return STYLE.sub("", text)


def test_a_terminal_shows_tables(fake: FakeGateway) -> None:
    state = fake.state
    state.catalogue = catalogue(Profile("test-model", cost=Cost(0.5, 1.5)))
    limit = Limit(context=49152, output=8192)
    state.fleet.nodes["mock-node"].entries["test-model"].limit = limit
    with terminal("status", "-e", fake.url, "--metrics", f"{fake.url}/metrics") as screen:
        assert screen.leave() == 0
    assert "The fleet is ok: 1 of 1 nodes answer." in seen(screen.shown)
    found = rows(seen(screen.shown))
    assert ["mock-node", "up", "1", "21.0 GiB", "11.0 GiB", "1", "3", "2"] in found
    assert ["test-model", "mock-node(loaded)", "49.2k", "8192", "0.5, 1.5"] in found
    assert ["test-model", "mock-node", "3/8", "2/8", "950", "47.5", "6"] in found


def test_watching_goes_on_until_it_is_interrupted(fake: FakeGateway) -> None:
    url = f"{fake.url}/metrics"
    with terminal("status", "-e", fake.url, "--metrics", url, "--watch", "0.1") as screen:
        screen.expect("mock-node(loaded)")
        fake.instead["/health"] = Response(b"", 500)
        screen.expect("answered 500")
        del fake.instead["/health"]
        screen.expect("mock-node(loaded)")
        screen.expect("^C ends")
        screen.interrupt_until_end()
        assert screen.leave() == 130


def test_metrics_that_cannot_be_reached_are_one_line(fake: FakeGateway, free_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{free_tcp_port}"
    with terminal("status", "-e", fake.url, "--metrics", url) as screen:
        assert screen.leave() == 0
    text = seen(screen.shown)
    assert f"no hosts, devices and loads: cannot reach {url}" in text
    assert "mock-node(loaded)" in text
    assert "DEVICE" not in text
