"""Where the cache is and what lies in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helexa.engine.checkpoint.cache import RepoCache, cache_root, files_in, list_cached_models


@pytest.mark.parametrize(
    ("cache_dir", "environ", "expected"),
    [
        ("/a", {"HF_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/a"),
        (None, {"HF_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/b"),
        (None, {"HF_HOME": "/c"}, "/c/hub"),
        (None, {}, "~/.cache/huggingface/hub"),
        ("", {"HF_HUB_CACHE": "", "HF_HOME": ""}, "~/.cache/huggingface/hub"),
        ("", {"HF_HUB_CACHE": "", "HF_HOME": "/c"}, "/c/hub"),
    ],
)
def test_e024_cache_root(cache_dir: str | None, environ: dict[str, str], expected: str) -> None:
    assert cache_root(cache_dir, environ) == Path(expected).expanduser()


def put(root: Path, commit: str, files: dict[str, bytes], org: str = "org") -> RepoCache:
    cache = RepoCache(root, org, "name")
    for name, data in files.items():
        blob = cache.blob(f"blob-{data.hex()}")
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        cache.link(blob.name, commit, name)
    return cache


def test_links_are_relative_and_replaced(tmp_path: Path) -> None:
    cache = put(tmp_path, "c1", {"deep/file": b"old"})
    put(tmp_path, "c1", {"deep/file": b"new"})
    pointer = cache.snapshot("c1") / "deep/file"
    assert pointer.read_bytes() == b"new"
    assert not pointer.readlink().is_absolute()


def test_a_copy_stands_in_where_links_are_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no privilege")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    pointer = put(tmp_path, "c1", {"file": b"data"}).snapshot("c1") / "file"
    assert not pointer.is_symlink()
    assert pointer.read_bytes() == b"data"


def test_files_are_sorted_recursive_and_without_broken_links(tmp_path: Path) -> None:
    cache = put(tmp_path, "c1", {"b": b"1", "a/x": b"2", "a.txt": b"3", "gone": b"4"})
    cache.blob("blob-34").unlink()
    assert list(files_in(cache.snapshot("c1"))) == ["a/x", "a.txt", "b"]


def test_snapshots_by_ref_or_commit(tmp_path: Path) -> None:
    cache = put(tmp_path, "c1", {"a": b"1"})
    cache.write_ref("feature/x", "c1")
    cache.write_ref("c1", "c1")
    cache.write_ref("hostile", "../../..")
    assert cache.local_snapshot("feature/x") == cache.snapshot("c1")
    assert cache.local_snapshot("c1") == cache.snapshot("c1")
    assert cache.local_snapshot("hostile") is None
    assert cache.local_snapshot("main") is None
    assert not cache.ref("c1").exists()


def test_cached_models_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "c1", {"a": b"12", "b": b"345"}).write_ref("main", "c1")
    put(tmp_path, "c2", {"a": b"6"})
    put(tmp_path, "c9", {"a": b"7"}, org="another")
    empty = put(tmp_path, "c3", {"a": b"8"}, org="empty")
    empty.blob("blob-38").unlink()
    (tmp_path / "datasets--org--name/snapshots/c1").mkdir(parents=True)
    (tmp_path / "models--stray").write_bytes(b"")
    (tmp_path / "models--gpt2/snapshots/c4").mkdir(parents=True)
    (tmp_path / "models--gpt2/snapshots/c4/a").write_bytes(b"9")
    found = [
        (model.id, model.revision, model.commit, model.bytes)
        for model in list_cached_models(tmp_path)
    ]
    assert found == [
        ("another/name", "c9", "c9", 1),
        ("gpt2", "c4", "c4", 1),
        ("org/name", "main", "c1", 5),
        ("org/name", "c2", "c2", 1),
    ]
    assert list_cached_models(tmp_path / "absent") == []
