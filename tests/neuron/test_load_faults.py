"""Loads that go wrong for reasons of the host, and what is told and logged of them."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from helexa.daemon.logs import fields_of
from helexa.engine.process.children import Child
from helexa.neuron.config import EngineSection, NeuronConfig, SourceConfig
from helexa.neuron.discovery import Sampler
from helexa.neuron.ids import ModelSpec
from helexa.neuron.nvml import Cards, NvmlFailed
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.neuron.daemons import TINY, Daemon, started
from tests.waiting import wait_until

TINY_FOLDER = Path(__file__).parents[2] / "src/helexa/builtin/tiny"
OWN = "own:org/name"
NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:1"}


class Driver:
    """A driver that answers only while it is ``well``."""

    well = False

    def __call__(self) -> Cards:
        if not self.well:
            raise NvmlFailed("the driver is not loaded")
        return Cards()


@pytest.fixture(scope="module")
def at() -> Iterator[Daemon]:
    with started(NeuronConfig(port=0), NOWHERE) as running:
        yield running


def warnings_of(at: Daemon, since: int) -> list[dict[str, Any]]:
    """The fields of what was warned of, or worse, after so many records."""
    records = at.log.records[since:]
    return [fields_of(record) for record in records if record.levelno >= logging.WARNING]


def test_nothing_is_loaded_while_nobody_knows_which_cards_there_are() -> None:
    """Else a host whose driver fails would load on its processor, and nobody would know why."""
    driver = Driver()
    config = NeuronConfig(port=0, default_models=(ModelSpec(model_id=TINY),))
    with started(config, sampler=Sampler(read_cards=driver, interval_s=0.05)) as at:
        refused = at.load(TINY)
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["error"]["code"] == "service_unavailable"
        assert "driver does not answer" in refused.json()["error"]["message"]
        wait_until(lambda: "next try in 10 s" in at.log.text())
        activation = at.http.get("/health").json()["activation"]
        assert (activation["pending"], activation["failed"]) == ([TINY], [])
        assert at.http.get("/discovery").json()["devices"] == []
        driver.well = True
        wait_until(lambda: at.http.get("/discovery").json()["devices"] != [])
        assert at.load(TINY).json() == {"status": "loaded"}


def test_a_fault_of_the_host_is_told_and_logged(at: Daemon) -> None:
    nursery = at.neuron._nursery
    real, since = nursery.take, len(at.log.records)

    def take() -> Child:
        try:
            raise OSError(24, "Too many open files")
        except OSError as error:
            raise RuntimeError("cannot start a process") from error

    nursery.take = take  # type: ignore[method-assign]  # a host without descriptors is hard to make
    try:
        answer = at.load(TINY)
    finally:
        nursery.take = real  # type: ignore[method-assign]  # as it was
    text = "cannot start a process: [Errno 24] Too many open files"
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    (fields,) = warnings_of(at, since)
    assert (fields["model"], fields["detail"]) == (TINY, text)
    (fault,) = [record.exc_info for record in at.log.records[since:] if record.exc_info]
    assert isinstance(fault[1], RuntimeError)
    assert at.load(TINY).json() == {"status": "loaded"}


def test_a_refused_load_is_warned_of_once_with_its_reason(at: Daemon) -> None:
    since = len(at.log.records)
    refused = at.load("org/absent").json()["error"]
    assert refused["kind"] == "repo_fetch_failed"
    (fields,) = warnings_of(at, since)
    assert (fields["model"], fields["reason"]) == ("org/absent", "repo_fetch_failed")
    assert refused["cause"] in fields["detail"]
    assert fields["elapsed_ms"] >= 0


def test_a_refused_default_model_has_its_reason_too(tmp_path: Path) -> None:
    (tmp_path / "org/empty").mkdir(parents=True)
    source = SourceConfig(path=str(tmp_path))
    engine = EngineSection(sources={"disk": source})
    spec = ModelSpec(model_id="disk:org/empty")
    with started(NeuronConfig(port=0, default_models=(spec,), engine=engine)) as at:
        wait_until(lambda: bool(at.http.get("/health").json()["activation"]["failed"]))
        reasons = [fields.get("reason") for fields in warnings_of(at, 0)]
    assert reasons.count("empty_repo") == 1


def test_nothing_is_kept_of_ids_that_were_asked_for(at: Daemon) -> None:
    for n in range(20):
        assert at.load(f"zz{n}:o/n").status_code == 400
        assert at.load(f"builtin:other/{n}").status_code == 400
    assert at.neuron.registry._loading == {}


class Listed(dict[str, bytes]):
    """The files of a repository, which tells nobody of them before it may."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.asked, self.may = threading.Event(), threading.Event()
        self.may.set()

    def __iter__(self) -> Iterator[str]:
        self.asked.set()
        assert self.may.wait(60)
        return super().__iter__()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Listed, NeuronConfig]]:
    files = {path.name: path.read_bytes() for path in TINY_FOLDER.iterdir() if path.is_file()}
    listed = Listed(files)
    hub = FakeHub(listed)
    with ExitStack() as servers:
        hub.endpoint = servers.enter_context(serving(hub))
        hub.store = servers.enter_context(serving(hub))
        source = SourceConfig(endpoint=hub.endpoint, cache_dir=str(tmp_path))
        yield listed, NeuronConfig(port=0, engine=EngineSection(sources={"own": source}))
        listed.may.set()


def test_unloading_what_is_loaded_afresh_leaves_nothing(own: tuple[Listed, NeuronConfig]) -> None:
    listed, config = own
    with started(config) as at, ThreadPoolExecutor(1) as pool:
        assert at.load(OWN).json() == {"status": "loaded"}
        child = at.child(OWN)
        at.slot(OWN).state = "poisoned"
        listed.asked.clear()
        listed.may.clear()
        again = pool.submit(at.load, OWN)
        assert listed.asked.wait(30)
        assert at.status(OWN) == "poisoned"
        assert at.unload(OWN).json() == {"status": "unloaded"}
        assert at.models() == []
        assert not Path(f"/proc/{child}").exists()
        assert again.result().json() == {"error": f"load of '{OWN}' was cancelled"}


def test_a_copy_that_is_loaded_without_its_registry_is_not_asked_for_again(tmp_path: Path) -> None:
    """What the preflight saw is what is loaded."""
    snapshot = tmp_path / "models--org--name/snapshots/c0ffee"
    shutil.copytree(TINY_FOLDER, snapshot)
    (tmp_path / "models--org--name/refs").mkdir()
    (tmp_path / "models--org--name/refs/main").write_text("c0ffee")
    hub = FakeHub({}, listing_status=503)
    with serving(hub) as endpoint:
        source = SourceConfig(endpoint=endpoint, cache_dir=str(tmp_path))
        config = NeuronConfig(port=0, engine=EngineSection(sources={"own": source}))
        with started(config) as at:
            assert at.load(OWN).json() == {"status": "loaded"}
    assert len(hub.requests) == 1
