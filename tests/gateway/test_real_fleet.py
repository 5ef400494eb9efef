"""Three real neurons behind two gateways, all of them processes: load, faults, budgets.

Nothing here waits for time to pass: models are held still (`held`) while something is looked at.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.gateway.gateway_process import FAST_POLLS, GatewayProcess, gateway
from tests.gateway.real_fleet import (
    CHAT,
    COMPLETIONS,
    DIALECTS,
    MESSAGES,
    ONCE,
    RESPONSES,
    Reader,
    held,
    kill,
    neurons,
    running,
    wait_for_text,
)
from tests.neuron.daemon_process import TIMEOUT_S, TINY, Daemon, started, stopped
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

SEATS = 5
LOADED = f'default_models = [{{ model_id = "{TINY}" }}]\n'
NO_QUEUE = f"""
[engine.admission]
max_in_flight = {SEATS}
anon_max_in_flight = {SEATS}
anon_max_pending = {SEATS}
max_queue_depth = 0
max_per_principal = 0
"""
KEYS = """
[entitlements]
ledger = "sqlite:///{ledger}"
[[entitlements.keys]]
key = "sk-team"
account_id = "team"
[[entitlements.keys]]
key = "sk-poor"
account_id = "poor"
hard_cap = 150
"""


@dataclass
class Rig:
    """Neurons by name, and the gateways in front of all of them."""

    neurons: dict[str, Daemon]
    gateways: list[GatewayProcess]
    ledger: Path

    @property
    def urls(self) -> dict[str, str]:
        return {name: neuron.url for name, neuron in self.neurons.items()}

    def busy(self) -> list[int]:
        """How many requests run at each neuron."""
        return [running(neuron) for neuron in self.neurons.values()]

    def heard_by(self, gw: GatewayProcess) -> list[int]:
        """The same, as a gateway has read it."""
        return [int(gw.metric("cortex_model_in_flight", node=name)) for name in self.neurons]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("fleet")
    catalogue = folder / "models.toml"
    catalogue.write_text(f'[aliases]\n"helexa/small" = "{TINY}"\n')
    top = f'models_config = "{catalogue}"\n'
    more = FAST_POLLS + KEYS.format(ledger=folder / "ledger.db")
    start = partial(started, config=LOADED + NO_QUEUE)
    with neurons(folder, start, "alpha", "beta", "gamma") as found, ExitStack() as stack:
        urls = {name: neuron.url for name, neuron in found.items()}
        gateways = [
            stack.enter_context(gateway(folder / f"gw{i}", urls, top + more)) for i in range(2)
        ]
        yield Rig(found, gateways, folder / "ledger.db")


@pytest.fixture(autouse=True)
def quiet(rig: Rig) -> Iterator[None]:
    """Each test begins and ends with a fleet that is well and idle."""
    for gw in rig.gateways:
        gw.wait_for_nodes(3)
    yield
    wait_until(lambda: rig.busy() == [0, 0, 0], TIMEOUT_S)
    for gw in rig.gateways:
        wait_until(lambda gw=gw: rig.heard_by(gw) == [0, 0, 0], TIMEOUT_S)


def test_an_alias_is_answered_by_both(rig: Rig) -> None:
    for gw in rig.gateways:
        answer = gw.chat(model="helexa/small", temperature=0)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["model"], answer.json()["usage"]["completion_tokens"]) == (TINY, 16)


def test_routing_follows_load(rig: Rig) -> None:
    first, second = rig.gateways
    with held(*rig.neurons.values()):
        readers = []
        for path, busy in ((CHAT, 1), (COMPLETIONS, 2), (MESSAGES, 3)):
            readers.append(Reader(first, path, 8))
            wait_until(lambda busy=busy: sum(rig.busy()) == busy)
        assert rig.busy() == [1, 1, 1]
        for name in ("gamma", "alpha"):  # what comes another way, both learn from the neurons
            readers.append(Reader(rig.neurons[name], COMPLETIONS, 8))
            wait_until(lambda name=name: running(rig.neurons[name]) == 2)
        for gw, expected in ((second, [2, 2, 2]), (first, [3, 2, 2])):
            wait_until(lambda gw=gw: rig.heard_by(gw) == rig.busy())
            readers.append(Reader(gw, RESPONSES, 8))
            wait_until(lambda expected=expected: rig.busy() == expected)
    assert [reader.whole for reader in readers] == [True] * 7


def test_both_gateways_keep_one_ledger(rig: Rig) -> None:
    streams = [Reader(gw, path, 8, "sk-team") for gw in rig.gateways for path in DIALECTS]
    assert all(stream.whole for stream in streams)
    cost = {stream.counted for stream in streams}
    assert cost == {8}
    spent = [gw.metric("cortex_spend_tokens_total", key="team") for gw in rig.gateways]
    assert all(tokens > 4 * 8 for tokens in spent)
    wait_until(lambda: written(rig, "team") == (sum(spent), 0))


def test_a_cap_holds_over_both_gateways(rig: Rig) -> None:
    used, statuses = 0, []
    for turn in range(12):
        answer = rig.gateways[turn % 2].chat("Hi", key="sk-poor", model=TINY, ignore_eos=True)
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            used += answer.json()["usage"]["total_tokens"]
        else:
            assert answer.json()["error"]["code"] == "insufficient_quota"
        wait_until(lambda used=used: written(rig, "poor") == (used, 0))
    served = statuses.count(200)
    assert statuses == [200] * served + [429] * (12 - served)
    assert served >= 2 and used <= 150


def written(rig: Rig, key: str) -> tuple[int, int]:
    """What the ledger says was spent with a key, and is reserved."""
    with closing(sqlite3.connect(rig.ledger)) as book:
        query = "SELECT spent, reserved FROM helexa_ledger WHERE key_id = ?"
        found: tuple[int, int] = book.execute(query, (key,)).fetchone()
        return found


def test_a_full_neuron_is_passed_over(rig: Rig, tmp_path: Path) -> None:
    """This gateway has not heard of the load that another way has brought there."""
    alpha, beta = rig.neurons["alpha"], rig.neurons["beta"]
    with gateway(tmp_path, {"a": alpha.url, "b": beta.url}, ONCE) as gw:
        gw.wait_for_nodes(2)
        with held(alpha):
            taken = [Reader(alpha, COMPLETIONS, 8) for _ in range(SEATS)]
            wait_until(lambda: running(alpha) == SEATS)
            asked = [Reader(gw, path, 8) for path in DIALECTS]
            assert all(reader.whole for reader in asked)
            assert gw.metric("cortex_retries_total", node="a", reason="503") > 0
            with held(beta):
                more = [Reader(beta, COMPLETIONS, 8) for _ in range(SEATS)]
                wait_until(lambda: running(beta) == SEATS)
                refused = gw.chat(model=TINY)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert all(reader.whole for reader in taken + more)


def test_three_failed_polls_and_no_less_make_a_neuron_unhealthy(rig: Rig, tmp_path: Path) -> None:
    gamma, beta = rig.neurons["gamma"], rig.neurons["beta"]
    limits = "[poller]\ninterval_secs = 0.1\ntimeout_secs = 1\n"
    limits += "[proxy]\nfirst_byte_timeout_secs = 2\n"
    failed, down = "node a: no list of models", "node a is down"
    urls = {"a": gamma.url, "b": beta.url}
    with gateway(tmp_path, urls, limits, {"HELEXA_LOG": "debug"}) as gw:
        gw.wait_for_nodes(2)
        with stopped(gamma.process.pid):
            wait_until(lambda: failed in gw.words(), TIMEOUT_S)
        with held(gamma):
            reader = Reader(gamma, COMPLETIONS, 8)
            wait_until(lambda: gw.metric("cortex_model_in_flight", node="a") == 1, TIMEOUT_S)
        assert reader.whole
        # By a later poll than the one whose first part had failed: that one is forgotten.
        wait_until(lambda: gw.metric("cortex_model_in_flight", node="a") == 0, TIMEOUT_S)
        assert down not in gw.words() and gw.health()["nodes"] == {"healthy": 2, "total": 2}

        failures = gw.words().count(failed)
        with stopped(gamma.process.pid):
            # It is the first by name, and nobody knows yet that it stands still.
            assert Reader(gw, COMPLETIONS, 8).end().status in (504, 200)
            gw.wait_for_nodes(1)
            wait_until(lambda: down in gw.words())  # a log may be written a little later
            assert gw.words().partition(down)[0].count(failed) == failures + 3
            assert all(Reader(gw, path, 8).whole for path in DIALECTS)
        gw.wait_for_nodes(2)


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Daemon]:
    """A neuron that may be killed."""
    (tmp_path / "doomed").mkdir()
    with started(tmp_path / "doomed", LOADED + NO_QUEUE) as daemon:
        yield daemon


def test_a_neuron_dies_in_mid_stream(rig: Rig, doomed: Daemon, tmp_path: Path) -> None:
    beta = rig.neurons["beta"]
    with gateway(tmp_path / "gw", {"a": doomed.url, "b": beta.url}, ONCE) as gw:
        gw.wait_for_nodes(2)
        with in_turn(gw, doomed, beta, 150) as (resumed, theirs):
            wait_for_text(*resumed)
            os.kill(doomed.child(), signal.SIGKILL)  # the model only: its neuron brings it back
            doomed.wait_for("recovering", TINY)
        assert [reader.whole for reader in resumed + theirs] == [True] * 8

        with in_turn(gw, doomed, beta, 1900) as (mine, theirs), ThreadPoolExecutor(1) as pool:
            whole = pool.submit(gw.chat, model=TINY, max_tokens=1900, ignore_eos=True)
            wait_until(lambda: running(doomed) == 5)
            wait_for_text(*mine)
            kill(doomed)
            for reader in mine:
                check_told(reader.end())
            error = whole.result().json()["error"]
            assert (whole.result().status_code, error["code"]) == (502, "upstream_connection_error")
        assert all(reader.whole for reader in theirs)
        answer = gw.chat(model=TINY)  # nobody has told the gateway that there is no neuron
        assert answer.status_code == 200, answer.text
        assert gw.metric("cortex_retries_total", node="a", reason="connect") == 1
        assert gw.metric("cortex_request_errors_total", node="a") == 5
        assert gw.metric("cortex_request_errors_total", node="b") == 0


@contextmanager
def in_turn(
    gw: GatewayProcess, first: Daemon, second: Daemon, tokens: int
) -> Iterator[tuple[list[Reader], list[Reader]]]:
    """A stream in each dialect from each of two neurons; the second is held inside the block."""
    readers = []
    with held(second):
        with held(first):
            for i, path in enumerate(path for path in DIALECTS for _ in range(2)):
                readers.append(Reader(gw, path, 20 if i % 2 else tokens))
                wait_until(lambda i=i: running(first) + running(second) == i + 1)
            assert running(first) == running(second) == 4
        yield readers[::2], readers[1::2]


def check_told(reader: Reader) -> None:
    """The last word of a broken stream: an error in its own dialect, and no end that is false."""
    name, last = reader.events[-1]
    assert reader.text and reader.status == 200
    if reader.path in (CHAT, COMPLETIONS):
        assert name == "" and last.keys() == {"error"}
        assert last["error"]["code"] == "upstream_connection_error"
    elif reader.path == RESPONSES:
        assert (name, last["type"], last["code"]) == ("error", "error", "upstream_connection_error")
    else:
        assert (name, last["type"], last["error"]["type"]) == ("error", "error", "api_error")
    assert reader.cut == (reader.path != MESSAGES)  # there an error is an end
    ends = ("[DONE]", "message_stop", "response.completed", "response.failed")
    assert not {name for name, _ in reader.events} & set(ends)
    assert "[DONE]" not in [data for _, data in reader.events]
