"""A disk that fills up while a daemon fetches a model: said, mended, and nothing half taken."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

import helexa
from tests.engine.checkpoint.conftest import FakeHub, serving
from tests.neuron.daemon_process import Daemon, started
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")

MODEL = "mock:org/name"
CONFIG = """
[engine]
sources.mock = {{endpoint = "{hub}", cache_dir = "{cache}"}}
"""
DISK_MIB = 16


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, small enough to be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(place)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def tiny_hub() -> Iterator[FakeHub]:
    """A hub that has the tiny model."""
    folder = Path(helexa.__file__).parent / "builtin" / "tiny"
    fake = FakeHub({path.name: path.read_bytes() for path in folder.iterdir()})
    with ExitStack() as servers:
        fake.endpoint = servers.enter_context(serving(fake))
        fake.store = servers.enter_context(serving(fake))
        yield fake


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No byte is left on the disk inside the block."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(2**16)):
            pass
    yield
    filler.unlink()


def load(daemon: Daemon) -> httpx.Response:
    return httpx.post(f"{daemon.url}/models/load", json={"model_id": MODEL}, timeout=60)


def test_a_full_disk_is_named_and_no_half_model_is_taken(
    tmp_path: Path, disk: Path, tiny_hub: FakeHub
) -> None:
    config = CONFIG.format(hub=tiny_hub.endpoint, cache=disk / "cache")
    with started(tmp_path, config) as daemon, ThreadPoolExecutor(1) as pool:
        tiny_hub.gate = threading.Event()
        loading = pool.submit(load, daemon)
        wait_until(lambda: bool(tiny_hub.asked("model.safetensors")), 50)
        with filled(disk):  # behind the back of who has just looked whether there is room
            tiny_hub.gate.set()
            refused = loading.result(60)
            assert_names_the_disk(refused, disk)
            assert_names_the_disk(load(daemon), disk)  # now it is seen before a byte is sent
        tiny_hub.listing_status = 500
        half = load(daemon)
        assert half.status_code in (400, 422), half.text
        assert daemon.http.get("/models").json() == []
        assert daemon.http.get("/health").status_code == 200
        tiny_hub.listing_status = 200
        assert load(daemon).json() == {"status": "loaded"}
        said = daemon.ask(model=MODEL, prompt="Hello", max_tokens=4)
        assert said["usage"]["completion_tokens"] == 4


def assert_names_the_disk(refused: httpx.Response, disk: Path) -> None:
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert "no space left for 'model.safetensors'" in error
    assert str(disk / "cache") in error
    assert "free some" in error
