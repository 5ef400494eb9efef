"""What may not be read, or is not what its name says, is a typed error that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helexa.engine.checkpoint.cache import RepoCache, list_cached_models
from helexa.engine.checkpoint.checkpoint import open_checkpoint
from helexa.engine.checkpoint.resolve import resolve_model
from helexa.engine.checkpoint.table import read_index
from helexa.errors import CheckpointError, InvalidRequest

Forbid = Callable[[Path], None]
Write = Callable[[Path, dict[str, bytes]], Path]

GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path, model_files: dict[str, bytes], write: Write) -> Path:
    return write(tmp_path / "m", model_files)


@pytest.mark.parametrize("name", ["", "config.json", GENERATION, INDEX, "model-1.safetensors"])
def test_what_may_not_be_read_is_named(folder: Path, forbid: Forbid, name: str) -> None:
    forbid(folder / name)
    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        open_checkpoint(folder)
    assert str(folder / name) in caught.value.message
    assert caught.value.hint


def test_an_index_that_may_not_be_read_is_named(folder: Path, forbid: Forbid) -> None:
    forbid(folder / INDEX)
    with pytest.raises(CheckpointError, match=r"cannot read .*index"):
        read_index(folder / INDEX, exists=lambda _: True)


def test_a_single_file_that_may_not_be_read_is_named(
    tmp_path: Path, pack: Callable[..., bytes], model_files: dict[str, bytes], forbid: Forbid
) -> None:
    (tmp_path / "config.json").write_bytes(model_files["config.json"])
    (tmp_path / "model.safetensors").write_bytes(pack({"a": ("F32", (1,))}))
    forbid(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors: Permission"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("data", [b"\xff\xfe{}", b'{"temperature": 0.5, "by": "\xe9"}'])
def test_a_generation_config_that_is_no_text_counts_as_absent(folder: Path, data: bytes) -> None:
    (folder / GENERATION).write_bytes(data)
    assert open_checkpoint(folder).generation_config is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("revision", None),
        ("revision", 3),
        ("cache_dir", 3),
        ("cache_dir", b"/cache"),
        ("offline", "no"),
        ("token", 3),
    ],
)
@pytest.mark.parametrize("model", ["org/name", "tiny"])
def test_an_option_of_a_wrong_type_is_named(model: str, option: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{option} must be ") as caught:
        resolve_model(model, **{"offline": True, option: value})
    assert caught.value.param == option


def test_a_token_of_a_wrong_type_is_not_shown() -> None:
    with pytest.raises(InvalidRequest, match=r"not a bytes$"):
        resolve_model("tiny", token=b"hf_secret")  # type: ignore[arg-type]  # what is tested


@pytest.fixture
def cache(tmp_path: Path, model_files: dict[str, bytes], write: Write) -> RepoCache:
    cache = RepoCache(tmp_path / "hub", "org", "name")
    write(cache.snapshot("c1"), model_files)
    write(cache.folder / "refs", {"main": b"c1"})
    return cache


def test_a_cache_that_may_not_be_read_is_named(cache: RepoCache, forbid: Forbid) -> None:
    forbid(cache.ref("main"))
    with pytest.raises(CheckpointError, match=r"cannot read .*refs"):
        resolve_model("org/name", cache_dir=cache.root, offline=True, environ={})


def test_a_ref_that_is_no_text_is_no_commit(cache: RepoCache) -> None:
    cache.ref("main").write_bytes(b"\xff\xfe")
    assert cache.local_snapshot("main") is None
    assert [model.revision for model in list_cached_models(cache.root)] == ["c1"]
    cache.write_ref("main", "c1")
    assert cache.local_snapshot("main") == cache.snapshot("c1")


@pytest.mark.parametrize("place", ["snapshots", "snapshots/c1"])
def test_a_model_that_may_not_be_read_stays_in_the_list(
    cache: RepoCache, forbid: Forbid, write: Write, place: str
) -> None:
    write(RepoCache(cache.root, "org", "other").snapshot("c2"), {"a": b"12"})
    forbid(cache.folder / place)
    hidden, other = list_cached_models(cache.root)
    assert (hidden.id, hidden.bytes, other.id, other.bytes) == ("org/name", 0, "org/other", 2)
    assert "Permission denied" in (hidden.unreadable or "")
    assert other.unreadable is None


def test_a_ref_that_may_not_be_read_leaves_the_commit(cache: RepoCache, forbid: Forbid) -> None:
    forbid(cache.ref("main"))
    assert [model.revision for model in list_cached_models(cache.root)] == ["c1"]
