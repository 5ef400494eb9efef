"""One file on its way into the cache: cuts, damage, full disks, two who want the same."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helexa.engine.checkpoint.cache import RepoCache
from helexa.engine.checkpoint.hub import fetch_all
from helexa.engine.checkpoint.transfer import ATTEMPTS, Cancelled, Transfer
from helexa.errors import DownloadError

COMMIT = "c0ffee" + "0" * 34
BIG = "model-1.safetensors"


def make(hub: Any, root: Path, client: httpx.Client, **options: Any) -> Transfer:
    base = f"{hub.endpoint}/org/name/resolve/{COMMIT}"
    options.setdefault("pause", lambda seconds: None)
    return Transfer(client, RepoCache(root, "org", "name"), COMMIT, base, **options)


@pytest.fixture
def transfer(hub: Any, tmp_path: Path) -> Iterator[Transfer]:
    with httpx.Client(verify=False) as client:
        yield make(hub, tmp_path, client)


def blobs(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "models--org--name/blobs").glob("*"))


def test_e028_a_cut_connection_is_resumed_where_it_broke(hub: Any, transfer: Transfer) -> None:
    hub.cuts[BIG] = [50_000, 30_000]
    assert transfer.fetch(BIG).read_bytes() == hub.files[BIG]
    assert hub.asked(BIG) == ["", "bytes=50000-", "bytes=80000-"]


def test_what_has_arrived_serves_the_next_load(
    hub: Any, transfer: Transfer, tmp_path: Path
) -> None:
    hub.cuts[BIG] = [50_000] + [0] * ATTEMPTS
    with pytest.raises(DownloadError, match="what has arrived is kept"):
        transfer.fetch(BIG)
    assert blobs(tmp_path) == [f"{hub.etag(BIG)}.incomplete"]
    hub.cuts.clear()
    hub.requests.clear()
    assert transfer.fetch(BIG).read_bytes() == hub.files[BIG]
    assert hub.asked(BIG) == ["bytes=50000-"]


def test_waits_between_tries_grow_and_the_first_is_at_once(hub: Any, tmp_path: Path) -> None:
    waits: list[float] = []
    hub.statuses[BIG] = [503] * ATTEMPTS
    with httpx.Client(verify=False) as client, pytest.raises(DownloadError, match="503"):
        make(hub, tmp_path, client, pause=waits.append).fetch(BIG)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_passing_failures_pass(hub: Any, transfer: Transfer) -> None:
    hub.statuses[BIG] = [503, 429]
    assert transfer.fetch(BIG).read_bytes() == hub.files[BIG]


def test_a_refusal_is_not_tried_again(hub: Any, transfer: Transfer) -> None:
    hub.statuses[BIG] = [403]
    with pytest.raises(DownloadError, match="403"):
        transfer.fetch(BIG)
    assert len(hub.asked(BIG)) == 1


def test_a_server_that_refuses_to_continue_starts_again(hub: Any, transfer: Transfer) -> None:
    hub.statuses[BIG] = [416]
    part = transfer.cache.blob(f"{hub.etag(BIG)}.incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.files[BIG][:10])
    assert transfer.fetch(BIG).read_bytes() == hub.files[BIG]
    assert hub.asked(BIG) == ["bytes=10-", ""]


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"x"], ids=["shorter", "longer"]
)
def test_e028_a_wrong_size_leaves_nothing_in_place(
    hub: Any, transfer: Transfer, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    hub.shorten[BIG] = change(hub.files[BIG])
    with pytest.raises(DownloadError, match="were announced"):
        transfer.fetch(BIG)
    assert blobs(tmp_path) == []
    assert not (transfer.cache.snapshot(COMMIT) / BIG).exists()


def test_a_wrong_hash_leaves_nothing_in_place(hub: Any, transfer: Transfer, tmp_path: Path) -> None:
    hub.shorten[BIG] = bytes(len(hub.files[BIG]))
    with pytest.raises(DownloadError, match="SHA-256"):
        transfer.fetch(BIG)
    assert blobs(tmp_path) == []


def test_a_stale_part_that_is_too_long_is_dropped(hub: Any, transfer: Transfer) -> None:
    part = transfer.cache.blob(f"{hub.etag(BIG)}.incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(len(hub.files[BIG]) + 1))
    assert transfer.fetch(BIG).read_bytes() == hub.files[BIG]
    assert hub.asked(BIG) == [""]


def test_a_whole_part_is_checked_without_a_request(hub: Any, transfer: Transfer) -> None:
    part = transfer.cache.blob(f"{hub.etag(BIG)}.incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.files[BIG])
    assert transfer.fetch(BIG).read_bytes() == hub.files[BIG]
    assert hub.asked(BIG) == []


def test_equal_contents_are_fetched_once(hub: Any, transfer: Transfer, tmp_path: Path) -> None:
    hub.files["copy.safetensors"] = hub.files[BIG]
    transfer.fetch(BIG)
    assert transfer.fetch("copy.safetensors").read_bytes() == hub.files[BIG]
    assert hub.asked("copy.safetensors") == []
    assert blobs(tmp_path) == [hub.etag(BIG)]


FETCH = """
import sys, httpx
from pathlib import Path
from helexa.engine.checkpoint.cache import RepoCache
from helexa.engine.checkpoint.transfer import Transfer
root, base, commit, name = sys.argv[1:]
with httpx.Client(verify=False) as client:
    Transfer(client, RepoCache(Path(root), "org", "name"), commit, base).fetch(name)
"""


def test_e028_two_processes_make_one_transfer(hub: Any, tmp_path: Path, transfer: Transfer) -> None:
    """The server holds the bytes back until both have asked for the file's size."""
    hub.gate = threading.Event()
    command = [sys.executable, "-c", FETCH, str(tmp_path), transfer.base_url, COMMIT, BIG]
    with subprocess.Popen(command) as other:
        wait_until_asked(hub, 1)  # it may take long to start: only then does its clock run
        opener = threading.Thread(target=open_gate_when_both_asked, args=(hub,))
        opener.start()
        transfer.fetch(BIG)
    opener.join()
    assert other.returncode == 0
    assert hub.asked(BIG) == [""]
    assert (transfer.cache.snapshot(COMMIT) / BIG).read_bytes() == hub.files[BIG]


def wait_until_asked(hub: Any, times: int) -> None:
    with hub.changed:
        assert hub.changed.wait_for(lambda: hub.asked_for_sizes() >= times, timeout=60)


def open_gate_when_both_asked(hub: Any) -> None:
    wait_until_asked(hub, 2)
    hub.gate.set()


def test_a_full_disk_is_named(
    hub: Any, transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Transfer, "write", full)
    with pytest.raises(DownloadError, match=r"no space left .* free some"):
        transfer.fetch(BIG)


def test_a_disk_too_small_is_noticed_before_the_transfer(hub: Any, transfer: Transfer) -> None:
    class Announced(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            assert request.method == "HEAD"
            headers = {"ETag": '"x"', "X-Linked-Size": str(1 << 62)}
            return httpx.Response(200, headers=headers)

    with httpx.Client(transport=Announced()) as client:
        told = make(hub, transfer.cache.root, client)
        with pytest.raises(DownloadError, match="bytes are missing"):
            told.fetch(BIG)


def test_an_unwritable_cache_is_named(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with httpx.Client(verify=False) as client, pytest.raises(DownloadError, match="cannot write"):
        make(hub, tmp_path / "file", client).fetch(BIG)


def test_the_first_failure_ends_the_others(hub: Any, transfer: Transfer) -> None:
    with pytest.raises(DownloadError, match="404"):
        fetch_all(transfer, ["absent.bin", BIG, "model-2.safetensors"])
    assert transfer.cancelled.is_set()
    with pytest.raises(Cancelled):
        make(hub, transfer.cache.root, transfer.client, cancelled=transfer.cancelled).fetch(
            "tokenizer.json"
        )


def test_a_cancelled_transfer_does_not_try_again(hub: Any, tmp_path: Path) -> None:
    hub.statuses[BIG] = [503] * ATTEMPTS
    with httpx.Client(verify=False) as client:
        transfer = make(hub, tmp_path, client, pause=lambda seconds: transfer.cancelled.set())
        with pytest.raises(Cancelled):
            transfer.fetch(BIG)
    assert len(hub.asked(BIG)) == 2


def test_an_etag_that_is_no_file_name_is_not_used_as_one(hub: Any, tmp_path: Path) -> None:
    class Hostile(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"ETag": '"../../../evil"'}, content=b"data")

    with httpx.Client(transport=Hostile()) as client:
        path = make(hub, tmp_path, client).fetch("config.json")
    assert path.read_bytes() == b"data"
    assert path.resolve().is_relative_to(tmp_path / "models--org--name/blobs")
    assert hashlib.sha256(path.read_bytes()).hexdigest() != path.resolve().name
