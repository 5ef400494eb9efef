"""A neuron of another age, or out of its mind, costs one call and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.gateway.fleet import Node
from helexa.gateway.neuron_client import read_each
from helexa.gateway.poller import poll_node, poll_once
from helexa.protocol.control import ActivationStatus, DeviceHealth, ModelInfo, ModelLoad, Wire
from tests.gateway.fleets import gateway
from tests.gateway.mock_setups import reporting
from tests.gateway.mocks import SILENT, Reply, as_json, mock_neuron, model
from tests.protocol.builders import quick

pytestmark = pytest.mark.anyio

FIELDS = "id status devices limit context output index vram_free_mb in_flight queue_depth state"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS.split()), inner),
)


@quick
@given(st.sampled_from([ModelInfo, ModelLoad, DeviceHealth, ActivationStatus]), JSON)
def test_any_json_is_read_or_told_of(kind: type[Wire], value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    found, bad = read_each(kind, values)
    assert len(found) + len(bad) == len(values)
    assert all(isinstance(item, kind) for item in found)
    assert all(len(problem) < 400 for problem in bad)


@pytest.mark.parametrize(
    "answer",
    [
        as_json([], 500),
        as_json([], 302, [("location", "http://127.0.0.1:1/")]),
        as_json({"models": []}),
        Reply(parts=(b"[",)),
        Reply(parts=(b"[" * 100_000,)),
        Reply(parts=(b"[" + b'{"id":"x"},' * 200_000 + b"1]",)),
        Reply(parts=(b"[ " * 5,) * 100, pause_s=0.05),
        Reply(then="reset", wire=b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n["),
        Reply(wire=b"nonsense\r\n\r\n"),
        SILENT,
    ],
    ids="status redirect object broken deep huge drip cut nonsense silent".split(),
)
async def test_a_hostile_list_fails_the_poll_and_keeps_what_is_known(answer: Reply) -> None:
    async with mock_neuron() as mock, gateway(mock, poller={"timeout_secs": 0.3}) as state:
        mock.on("GET /models", answer)
        with anyio.fail_after(5):
            await poll_node(state, state.fleet.nodes["mock-node"])
        assert state.fleet.nodes["mock-node"].consecutive_poll_failures == 1
        assert list(state.fleet.nodes["mock-node"].entries) == ["test-model"]


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 5},
        5,
        None,
        {},
        model(""),
        model("x" * 1000),
        model("a\nb"),
        model("m", vram_used_mb=10**400),
        model("m", vram_used_mb="lots"),
        model("m", limit={"context": "long"}),
    ],
    ids=lambda bad: str(bad)[:20],
)
async def test_g036_bad_element(bad: object, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        mock_neuron(reporting([model("valid"), bad])) as mock,  # type: ignore[list-item]  # it is bad
        gateway(Node("mock-node", mock.url)) as state,
    ):
        await poll_once(state)
        await poll_once(state)
        node = state.fleet.nodes["mock-node"]
        assert (node.healthy, list(node.entries)) == (True, ["valid"])
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "skipped" in warning.getMessage()


async def test_what_cannot_be_read_of_a_health_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = {"index": 0, "vram_used_mb": 1, "vram_free_mb": 5}
    devices = [good | {"utilization_pct": 73.5, "temp_c": 61.2}, good | {"index": "one"}]
    async with mock_neuron(reporting([], devices=devices)) as mock, gateway(mock) as state:
        for _ in range(2):
            await poll_once(state)
        (node,) = state.fleet.nodes.values()
        assert [(d.utilization_pct, d.vram_free_mb) for d in node.device_health.values()] == [
            (73.5, 5)
        ]
        told = [r.message for r in caplog.records if "of its health" in r.message]
        assert len(told) == 1 and "index: must be a whole number" in told[0]
