"""Cold loads, fail-over and displacement, with real neurons whose devices hold one model each.

Which device has how much memory is made up (see `sized_neuron`); the loads and unloads are not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.gateway.gateway_process import FAST_POLLS, TIMEOUT_S, GatewayProcess, gateway
from tests.gateway.real_fleet import (
    COMPLETIONS,
    ONCE,
    Reader,
    connect,
    held,
    neurons,
    running,
    shelf,
)
from tests.gateway.sized_neuron import __file__ as sized_neuron
from tests.neuron.daemon_process import Daemon, children_of, started, stopped
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

DEVICE_MB, MODEL_MB = 130, 86
SEATS = """
[engine.prefix_cache]
enabled = false
[engine.admission]
max_in_flight = 4
max_queue_depth = 16
"""
SHELVES = {"n1": ("a", "b", "c", "low", "mid", "high"), "n2": ("low", "only2")}
PROFILE = '[[models]]\nid = "team/{name}"\nsource = "lab"\nvram_mb = {mb}\n{more}\n'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Daemon]]:
    def start(folder: Path) -> object:
        config = shelf(folder, *SHELVES[folder.name]) + SEATS
        odd = folder / "lab" / "team" / "odd"
        odd.mkdir()
        (odd / "README.md").write_text("no weights")
        return started(folder, config, program=(sized_neuron, str(DEVICE_MB)))

    with neurons(tmp_path_factory.mktemp("fleet"), start, "n1", "n2") as found:
        yield found


@pytest.fixture(autouse=True)
def empty(fleet: dict[str, Daemon]) -> Iterator[None]:
    """After each test nothing is loaded."""
    yield
    for neuron in fleet.values():
        for id in residents(neuron):
            body = {"model_id": f"lab:team/{id}", "force": True}
            assert neuron.http.post("/models/unload", json=body).status_code == 200


@contextmanager
def in_front(
    folder: Path, fleet: dict[str, Daemon], polls: str, **profiles: str
) -> Iterator[GatewayProcess]:
    """A gateway with a catalogue; of each model, what else its profile says."""
    entries = [PROFILE.format(name=name, mb=MODEL_MB, more=m) for name, m in profiles.items()]
    (folder / "models.toml").write_text("".join(entries))
    urls = {name: neuron.url for name, neuron in fleet.items()}
    with gateway(folder / "gw", urls, known(folder) + polls) as gw:
        gw.wait_for_nodes(len(fleet))
        yield gw


def known(folder: Path) -> str:
    """The setting of the catalogue."""
    return f'models_config = "{folder / "models.toml"}"\n'


def residents(neuron: Daemon) -> list[str]:
    """What a neuron has loaded."""
    return [info["id"].removeprefix("lab:team/") for info in neuron.http.get("/models").json()]


def loads(neuron: Daemon, name: str) -> int:
    """How often a neuron was asked to load a model."""
    return neuron.words().count(f"loading lab:team/{name}\n")


def answered(gw: GatewayProcess, name: str) -> httpx.Response:
    answer = gw.chat(model=f"team/{name}", ignore_eos=True)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 16
    return answer


def test_one_neuron_and_models_that_take_turns(fleet: dict[str, Daemon], tmp_path: Path) -> None:
    n1 = fleet["n1"]
    with in_front(tmp_path, {"n1": n1}, ONCE, a="", b="", c="") as gw:
        with gateway(tmp_path / "gw2", {"n1": n1.url}, known(tmp_path) + ONCE) as other:
            other.wait_for_nodes(1)
            with ThreadPoolExecutor(10) as pool:  # ten at once over two gateways, and one load
                list(pool.map(answered, [gw, other] * 5, "a" * 10))
            for one in (gw, other):
                assert one.metric("cortex_cold_starts_total", model="team/a") == 5
        assert (loads(n1, "a"), residents(n1)) == (1, ["a"])

        with held(n1):  # what answers is not unloaded, and who leaves does not end a load
            reader = Reader(gw, COMPLETIONS, 20, model="team/a")
            wait_until(lambda: running(n1, "lab:team/a") == 1)
            leave_while_loading(gw, n1, "b")
        assert reader.whole
        wait_until(lambda: residents(n1) == ["a", "b"], TIMEOUT_S)
        wait_until(lambda: gw.where("team/b") == {"n1": "loaded"}, TIMEOUT_S)
        answered(gw, "b")
        assert (loads(n1, "b"), gw.metric("cortex_evictions_total")) == (1, 0)

        answered(gw, "c")  # of equal rank: both make way, and one of them comes back
        assert (residents(n1), gw.metric("cortex_evictions_total")) == (["c"], 2)
        answered(gw, "a")
        assert (residents(n1), gw.metric("cortex_evictions_total")) == (["a"], 3)

        n1.http.post("/models/unload", json={"model_id": "lab:team/a"})  # nobody tells the gateway
        answered(gw, "a")
        assert (loads(n1, "a"), residents(n1)) == (3, ["a"])
        assert gw.metric("cortex_retries_total", reason="not_found", node="n1") == 1


def leave_while_loading(gw: GatewayProcess, neuron: Daemon, name: str) -> None:
    """Ask for a model, and go away when it is half loaded."""
    before = set(children_of(neuron.process.pid))
    client = connect(gw, COMPLETIONS, 8, model=f"team/{name}")
    wait_until(lambda: len(set(children_of(neuron.process.pid)) - before) == 1, TIMEOUT_S)
    (child,) = set(children_of(neuron.process.pid)) - before
    with stopped(child):
        assert gw.where(f"team/{name}") == {"n1": "loading"}
        client.close()
        wait_until(lambda: "outcome=client_gone" in gw.words())


def test_two_neurons_and_ranks(fleet: dict[str, Daemon], tmp_path: Path) -> None:
    n1, n2 = fleet.values()
    pinned = 'pinned_on = ["n1"]\n'
    ranks = {"high": pinned, "mid": pinned + "residency_priority = 999", "low": "", "only2": ""}
    with in_front(tmp_path, fleet, FAST_POLLS, **ranks) as gw:
        answered(gw, "only2")  # the first one by name has no such files
        assert (residents(n1), residents(n2)) == ([], ["only2"])
        assert (loads(n1, "only2"), loads(n2, "only2")) == (1, 1)

        answered(gw, "low")  # where there is room
        assert (residents(n1), residents(n2)) == (["low"], ["only2"])
        assert gw.metric("cortex_evictions_total") == 0

        answered(gw, "high")  # ranks above, and may be on one neuron only
        assert (residents(n1), residents(n2)) == (["high"], ["only2"])
        assert gw.metric("cortex_evictions_total", node="n1", model="team/low") == 1

        answered(gw, "low")  # does not rank above, so its equal makes way elsewhere
        assert (residents(n1), residents(n2)) == (["high"], ["low"])
        assert gw.metric("cortex_evictions_total", node="n2", model="team/only2") == 1

        answered(gw, "mid")  # nothing may make way; that it fits all the same, its neuron knows
        assert (residents(n1), residents(n2)) == (["high", "mid"], ["low"])
        answered(gw, "high")
        assert (gw.metric("cortex_evictions_total"), loads(n1, "high")) == (2, 1)


def test_loads_that_fail(fleet: dict[str, Daemon], tmp_path: Path) -> None:
    with in_front(tmp_path, fleet, ONCE, nowhere="", odd="") as gw:
        for _ in range(2):
            answer = gw.chat(model="team/nowhere")
            message = answer.json()["error"]["message"]
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert message.startswith("cold-load of 'team/nowhere' on 'n2' failed: HTTP 422: ")
            assert "repo_fetch_failed" in message
            assert [loads(neuron, "nowhere") for neuron in fleet.values()] == [1, 1]
        for _ in range(2):
            answer = gw.chat(model="team/odd")
            assert (answer.status_code, "retry-after" in answer.headers) == (404, False)
            assert "HTTP 422: " in answer.json()["error"]["message"]
            assert [loads(neuron, "odd") for neuron in fleet.values()] == [1, 1]
    assert [residents(neuron) for neuron in fleet.values()] == [[], []]


def test_two_that_do_not_fit_take_turns(tmp_path: Path) -> None:
    """The neuron itself refuses the second while the first answers; every request is answered."""

    def start(folder: Path) -> object:
        config = shelf(folder, "a", "b") + SEATS
        return started(folder, config, program=(sized_neuron, f"{DEVICE_MB}:{MODEL_MB}"))

    with neurons(tmp_path, start, "n1") as found:
        with in_front(tmp_path, found, ONCE, a="", b="") as gw, ThreadPoolExecutor(16) as pool:
            list(pool.map(answered, [gw] * 16, "ab" * 8))
            assert gw.metric("cortex_evictions_total") >= 1
        n1 = found["n1"]
        assert len(residents(n1)) == 1
        assert f"the device refused {MODEL_MB} MiB" in n1.words()
