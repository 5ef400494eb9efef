"""Where models answer, and which answers to that are believed."""

from __future__ import annotations

from urllib.parse import urlsplit

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.endpoints import (
    BELIEVED_S,
    accepted,
    endpoint_url,
    forget_endpoint,
    rewrite_loopback_host,
)
from helexa.gateway.fleet import Node
from helexa.gateway.poller import poll_once
from helexa.gateway.refusals import EndpointResolveFailed
from helexa.gateway.state import State
from helexa.http.faults import UpstreamUnreachable
from tests.gateway.fleets import Clock, gateway, loaded
from tests.gateway.mocks import SILENT, Reply, as_json, gone, mock_neuron
from tests.protocol.builders import quick

M = "test-model"
ASKED = "GET /models/{id}/endpoint"


@pytest.mark.parametrize(
    ("url", "node", "expected"),
    [
        ("http://localhost:13131", "http://gpu-a.internal:13131", "http://gpu-a.internal:13131"),
        ("http://127.0.0.1:8080", "http://gpu-a.lan:13131", "http://gpu-a.lan:8080"),
        ("http://[::1]:9/x/", "http://gpu-a.lan:1", "http://gpu-a.lan:9/x"),
        ("http://other.host:1234", "http://gpu-a.lan:1", None),
        ("not a url", "http://gpu-a.lan:1", None),
        ("https://0.0.0.0", "http://gpu-a.lan:1", "https://gpu-a.lan"),
        ("http://LOCALHOST:5", "http://gpu-a.lan:1", "http://gpu-a.lan:5"),
        ("http://localhost:5", "http://[fd00::1]:13131", "http://[fd00::1]:5"),
        ("http://localhost:99999", "http://gpu-a.lan:1", None),
        ("http://localhost:x", "http://gpu-a.lan:1", None),
        ("http://a@localhost:5", "http://gpu-a.lan:1", None),
        ("ftp://localhost", "http://gpu-a.lan:1", None),
        ("//localhost:5", "http://gpu-a.lan:1", None),
        ("http://[::1", "http://gpu-a.lan:1", None),
        ("", "http://gpu-a.lan:1", None),
    ],
)
def test_g071_loopback(url: str, node: str, expected: str | None) -> None:
    assert rewrite_loopback_host(url, node) == expected


@pytest.mark.parametrize(
    ("url", "allow", "expected"),
    [
        ("http://gpu-a.lan:8080/x/", (), "http://gpu-a.lan:8080/x"),
        ("https://GPU-A.lan", (), "https://GPU-A.lan"),
        ("http://localhost:7", (), "http://gpu-a.lan:7"),
        ("http://169.254.169.254/latest", (), None),
        ("http://other:1", (), None),
        ("http://other:1", ("Other",), "http://other:1"),
        ("http://elsewhere:1", ("other",), None),
        ("http://elsewhere:1", ("*",), "http://elsewhere:1"),
        ("file:///etc/passwd", ("*",), None),
        ("http://user:word@gpu-a.lan", ("*",), None),
        ("http://gpu-a.lan@other", ("*",), None),
        ("http://gpu-a.lan?x=", ("*",), None),
        ("http://gpu-a.lan#", ("*",), None),
        ("http://gpu-a.lan\\@other", ("*",), None),
        ("http://gpu-a.lan/\r\nx: y", ("*",), None),
        ("http://gpu-a.lan:0", ("*",), None),
        ("http:///x", ("*",), None),
        ("gpu-a.lan", ("*",), None),
    ],
)
def test_hosts_that_a_node_may_name(url: str, allow: tuple[str, ...], expected: str | None) -> None:
    assert accepted(url, Node("a", "http://gpu-a.lan:13131", allow_hosts=allow)) == expected


@quick
@given(st.text() | st.builds("http://{}".format, st.text()))
def test_any_text_is_either_refused_or_the_own_host(text: str) -> None:
    url = accepted(text, Node("a", "http://gpu-a.lan:13131"))
    assert url is None or urlsplit(url).hostname == "gpu-a.lan"


async def failed(state: State) -> EndpointResolveFailed:
    with pytest.raises(EndpointResolveFailed) as caught:
        await endpoint_url(state, state.fleet.nodes["mock-node"], M)
    return caught.value


@pytest.mark.anyio
async def test_g072_endpoint_cache() -> None:
    clock = Clock()
    async with mock_neuron() as mock, gateway(mock, clock=clock) as state:
        node = state.fleet.nodes["mock-node"]
        for at, asked in ((0.0, 1), (BELIEVED_S - 0.1, 1), (BELIEVED_S, 2)):
            clock.now = 1000.0 + at
            assert await endpoint_url(state, node, M) == mock.url
            assert mock.count(ASKED) == asked
        forget_endpoint(node, M)
        await endpoint_url(state, node, M)
        assert mock.count(ASKED) == 3
        node.drop(M)
        assert node.endpoints == {}


@pytest.mark.anyio
async def test_it_is_forgotten_when_the_node_goes_down() -> None:
    async with mock_neuron() as mock, gateway(mock, poller={"failure_threshold": 1}) as state:
        node = state.fleet.nodes["mock-node"]
        await endpoint_url(state, node, M)
        node.endpoint = gone()
        await poll_once(state)
        assert node.endpoints == {}


@pytest.mark.anyio
async def test_the_listed_id_is_asked_for_as_one_segment() -> None:
    async with mock_neuron() as mock, gateway(mock) as state:
        node = state.fleet.nodes["mock-node"]
        node.entries = loaded("Qwen/Qwen3-8B")
        node.entries["Qwen/Qwen3-8B"].listed_id = "zz:Qwen/Qwen3-8B"
        await endpoint_url(state, node, "Qwen/Qwen3-8B")
        (seen,) = mock.seen(ASKED)
        assert seen.path == "/models/zz%3AQwen%2FQwen3-8B/endpoint"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reply", "missing"),
    [
        (as_json({"error": "not loaded"}, 404), True),
        (as_json({"error": "x" * 100_000}, 404), True),
        (as_json({"error": "no"}, 500), False),
        (as_json({}), False),
        (as_json({"url": 5}), False),
        (as_json(["http://127.0.0.1:1"]), False),
        (as_json({"url": "http://elsewhere:1"}), False),
        (Reply(parts=(b"{" * 5000,)), False),
        (Reply(then="reset", wire=b""), False),
    ],
    ids="missing missing_at_length error empty odd list elsewhere deep reset".split(),
)
async def test_no_usable_answer(
    reply: Reply, missing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with mock_neuron() as mock, gateway(mock) as state:
        mock.on(ASKED, reply)
        error = await failed(state)
        assert (error.status, error.retry_after_s, error.missing) == (503, 2, missing)
        assert str(error) == (
            "failed to resolve inference endpoint for model 'test-model' on node 'mock-node'"
        )
        assert state.fleet.nodes["mock-node"].endpoints == {}
    assert len(caplog.records) == 1


@pytest.mark.anyio
async def test_nobody_there_and_client_gone() -> None:
    async with mock_neuron() as mock, gateway(mock) as state:
        mock.on(ASKED, SILENT)
        with anyio.move_on_after(0.05) as waiting:
            await endpoint_url(state, state.fleet.nodes["mock-node"], M)
        assert waiting.cancelled_caught
        state.fleet.nodes["mock-node"].endpoint = gone()
        with pytest.raises(UpstreamUnreachable):
            await endpoint_url(state, state.fleet.nodes["mock-node"], M)


def test_outstanding_requests_are_counted() -> None:
    node = Node("a", "http://a")
    node.arrives(M)
    node.arrives(M)
    assert node.own == {M: 2}
    node.leaves(M)
    node.leaves(M)
    assert node.own == {}


def test_on_one_machine_the_host_is_what_the_configuration_calls_it() -> None:
    assert accepted("http://127.0.0.1:5", Node("a", "http://localhost:1")) == "http://localhost:5"
