"""The end of a real gateway in front of a real neuron, and a new catalogue in the midst of life."""

from __future__ import annotations

import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.gateway.gateway_process import TIMEOUT_S, GatewayProcess, gateway
from tests.gateway.real_fleet import (
    DIALECTS,
    ONCE,
    Reader,
    held,
    running,
    said,
    wait_for_text,
)
from tests.neuron.daemon_process import TINY, Daemon, started
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

LOADED = (
    f'default_models = [{{ model_id = "{TINY}" }}]\n[engine.admission]\nmax_per_principal = 0\n'
)
KEYS = """
[entitlements]
require_auth = true
ledger = "sqlite:///{ledger}"
keys = [{{ key = "sk-a", account_id = "a", hard_cap = 100_000 }}]
"""


@pytest.fixture(scope="module")
def neuron(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with started(tmp_path_factory.mktemp("neuron"), LOADED) as daemon:
        yield daemon


def terminate(gw: GatewayProcess) -> None:
    gw.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM: shutting down" in gw.words())


def test_g184_what_runs_may_end(neuron: Daemon, tmp_path: Path) -> None:
    with gateway(tmp_path, {"n": neuron.url}, ONCE) as gw:
        gw.wait_for_nodes(1)
        with held(neuron):
            readers = [Reader(gw, path, 8) for path in DIALECTS]
            wait_until(lambda: running(neuron) == len(DIALECTS))
            terminate(gw)
            late = gw.chat(model=TINY)  # over the connection that was open all the time
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{gw.url}/health", trust_env=False)
            assert gw.process.poll() is None
        assert [reader.whole for reader in readers] == [True] * len(DIALECTS)
        assert gw.process.wait(TIMEOUT_S) == 0
        error = late.json()["error"]
        assert (late.status_code, late.headers["retry-after"]) == (503, "5")
        assert (error["code"], error["message"]) == ("shutting_down", "gateway is shutting down")
        assert late.headers["connection"] == "close"
        assert gw.words().rstrip().endswith("shutdown complete")


@pytest.mark.parametrize(("drain_s", "signals"), [(0.2, 1), (600, 2)], ids=["late", "again"])
def test_g184_what_does_not_end_is_cut_and_charged(
    neuron: Daemon, tmp_path: Path, drain_s: float, signals: int
) -> None:
    ledger = tmp_path / "ledger.db"
    config = ONCE + KEYS.format(ledger=ledger)
    environ = {"CORTEX_GATEWAY__DRAIN_TIMEOUT_SECS": str(drain_s)}
    with gateway(tmp_path / "gw", {"n": neuron.url}, config, environ) as gw:
        gw.wait_for_nodes(1)
        readers = [Reader(gw, path, 1900, "sk-a") for path in DIALECTS]
        wait_for_text(*readers)
        with held(neuron):
            assert running(neuron) == len(DIALECTS)
            for _ in range(signals):
                terminate(gw)
            assert gw.process.wait(TIMEOUT_S) == 1
            assert not any(reader.whole for reader in readers)
        with closing(sqlite3.connect(ledger)) as book:
            query = "SELECT spent, reserved FROM helexa_ledger WHERE key_id = 'a'"
            spent, reserved = book.execute(query).fetchone()
            (left,) = book.execute("SELECT COUNT(*) FROM helexa_reservations").fetchone()
        relayed = sum(
            said(reader.path, data) != "" for reader in readers for _, data in reader.events
        )
        assert (reserved, left) == (0, 0)
        assert relayed <= spent < sum(reader.tokens for reader in readers)
    neuron.wait_until_idle()


def test_g005_a_new_catalogue_on_sighup(neuron: Daemon, tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text("")
    with gateway(
        tmp_path / "gw", {"n": neuron.url}, f'models_config = "{catalogue}"\n' + ONCE
    ) as gw:
        gw.wait_for_nodes(1)
        assert gw.chat(model="helexa/small").status_code == 404
        good, broken = f'[aliases]\n"helexa/small" = "{TINY}"\n', "[aliases\n"
        for text, level in ((good, " INFO "), (broken, " ERROR ")):
            catalogue.write_text(text)
            gw.process.send_signal(signal.SIGHUP)
            told = partial(lines_with, gw, level, str(catalogue))
            wait_until(lambda told=told: len(told()) == 1)
            assert gw.chat(model="helexa/small").status_code == 200
        assert gw.end() == 0


def lines_with(gw: GatewayProcess, *parts: str) -> list[str]:
    """The lines of a gateway's log that have all of these."""
    return [line for line in gw.words().splitlines() if all(part in line for part in parts)]
