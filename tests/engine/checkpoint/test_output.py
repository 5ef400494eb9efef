"""What may be overwritten, and what is left after a failure: nothing, and what was there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from helexa.engine.checkpoint.output import (
    beside,
    check_room,
    check_target,
    clear_dead,
    this_host,
    whole,
)
from helexa.engine.checkpoint.safetensors_writer import Shard
from helexa.errors import CheckpointError, InvalidRequest
from tests.engine.checkpoint.conftest import safetensors


def ours(folder: Path, config: str = "{}") -> Path:
    """A folder as it is written."""
    folder.mkdir()
    (folder / "config.json").write_text(config)
    Shard("model.safetensors", ()).write(folder, lambda nbytes: None)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(target: Path, told: str, *, overwrite: bool = True) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        check_target(target, overwrite=overwrite)
    assert caught.value.param == "dst" and caught.value.hint


def test_what_is_not_there_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("x.gguf", "X.GGUF", "folder", "Qwen3-0.6B-q4_k", "empty"):
        check_target(tmp_path / name, overwrite=False)
    refused(tmp_path / "no" / "x", "there is no folder")
    for name in ("model.safetensors", "model.bin", "x.pt"):
        refused(tmp_path / name, "name of a file")


def test_only_what_was_written_here_is_overwritten(tmp_path: Path) -> None:
    folder = ours(tmp_path / "q")
    refused(folder, "exists", overwrite=False)
    check_target(folder, overwrite=True)
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "is a file")
    (tmp_path / "x.gguf").mkdir()
    refused(tmp_path / "x.gguf", "is a folder")
    for name in ("README.md", "adapter.safetensors"):
        (folder / name).write_text("mine")
        refused(folder, rf"holds {name}")
        (folder / name).unlink()
    (folder / "tokenizer.json").mkdir()
    refused(folder, r"holds tokenizer\.json")


@pytest.mark.parametrize(
    "weights", [safetensors({"a": ("F32", (2,))}), b"", b"\xff" * 8, b"\2" + bytes(7) + b"[]"]
)
def test_a_model_of_others_is_never_overwritten(weights: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    refused(folder, "no weights of ours")
    (folder / "model.safetensors").write_bytes(weights)
    refused(folder, "has not written")
    (folder / "model.safetensors").unlink()
    (folder / "model-00001-of-00002.safetensors").write_bytes(weights)
    refused(folder, "has not written")


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "q"
    with whole(target, overwrite=False) as part:
        ours(part, "first")
        assert not target.exists()
    assert names(tmp_path) == ["q"]
    with whole(target, overwrite=True) as part:
        ours(part, "second")
        assert (target / "config.json").read_text() == "first"
    assert (target / "config.json").read_text() == "second"
    assert names(tmp_path) == ["q"]
    (tmp_path / "empty").mkdir()
    with whole(tmp_path / "empty", overwrite=False) as part:
        ours(part)
    assert names(tmp_path / "empty") == ["config.json", "model.safetensors"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    ours(tmp_path / "q")
    (tmp_path / "link").symlink_to("q")
    check_target(tmp_path / "link", overwrite=True)


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    mine, host = beside(target, "part").name, this_host()
    left = [mine, f"x.gguf.{gone.pid}-1@{host}.part", f"x.gguf.{os.getpid()}-1@{host}.part"]
    kept = [
        "x.gguf",
        f"x.gguf.{os.getppid()}-1@{host}.part",  # its process runs
        f"x.gguf.{gone.pid}-1@00000000.part",  # of another machine
        f"x.gguf.{gone.pid}-1@{host}.old",  # what was there before
        f"xxgguf.{gone.pid}-1@{host}.part",
        f"x.gguf.{10**30}-1@{host}.part",
    ]
    for name in (*left, *kept):
        (tmp_path / name).write_text("half")
    ours(tmp_path / f"x.gguf.{gone.pid}-2@{host}.part")
    started, done = threading.Event(), threading.Event()

    def write() -> None:
        with whole(target, overwrite=True) as part:
            part.write_text("by another thread")
            started.set()
            done.wait(60)

    thread = threading.Thread(target=write)
    thread.start()
    started.wait(60)
    clear_dead(target)
    assert len(names(tmp_path)) == len(kept) + 1
    done.set()
    thread.join()
    assert names(tmp_path) == sorted(kept)
    assert target.read_text() == "by another thread"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_leaves_what_was_there(kind: str, tmp_path: Path) -> None:
    target = tmp_path / ("x.gguf" if kind == "file" else "q")
    if kind == "file":
        target.write_text("before")
    else:
        ours(target, "before")
    with (
        pytest.raises(CheckpointError, match="No space left"),
        whole(target, overwrite=True) as part,
    ):
        if kind == "file":
            part.write_text("half")
        else:
            ours(part)
        raise OSError(errno.ENOSPC, "No space left on device")
    found = target if kind == "file" else target / "config.json"
    assert found.read_text() == "before"
    assert names(tmp_path) == [target.name]


def test_what_came_to_be_there_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "q"
    with pytest.raises(InvalidRequest, match="exists"), whole(target, overwrite=False) as part:
        ours(part)
        ours(target, "of another")
    assert (target / "config.json").read_text() == "of another"
    with pytest.raises(InvalidRequest, match="holds"), whole(target, overwrite=True) as part:
        ours(part)
        (target / "notes.txt").write_text("mine")
    assert (target / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["q"]


def test_a_folder_that_cannot_take_its_name_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = ours(tmp_path / "q", "before"), Path.rename

    def fail(path: Path, to: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(errno.EIO, "the disk is broken")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CheckpointError, match="broken"), whole(target, overwrite=True) as part:
        ours(part)
    assert (target / "config.json").read_text() == "before"
    assert names(tmp_path) == ["q"]


def test_room(tmp_path: Path) -> None:
    check_room(tmp_path / "q", 1)
    with pytest.raises(CheckpointError, match="left"):
        check_room(tmp_path / "q", 1 << 60)


def test_what_may_not_be_looked_at_or_written_to(
    tmp_path: Path, forbid: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ours(tmp_path / "q")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != tmp_path)
        refused(tmp_path / "x.gguf", "may not be written to")
    forbid(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
        check_target(folder, overwrite=True)
