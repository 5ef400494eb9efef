"""GGUF repositories of a hub: one file of them is fetched, with its parts and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helexa.engine.checkpoint.cache import RepoCache
from helexa.engine.checkpoint.gguf_folder import gguf_files, original_name, snapshot_of
from helexa.engine.checkpoint.hub import HubAccess, fetch_model, fetch_original_tokenizer
from helexa.engine.checkpoint.reference import HubId
from helexa.engine.checkpoint.transfer import Transfer
from helexa.errors import DownloadError, PreflightError
from tests.engine.checkpoint.conftest import COMMIT, FakeHub
from tests.engine.checkpoint.test_hub import reach

MODEL = HubId(None, "org", "name")
PARTS = tuple(f"Q8_0/m-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3))
FILES = {
    "README.md": b"not fetched",
    "mmproj-F16.gguf": b"an image tower",
    "m-Q4_K_M.gguf": b"four bits",
    "tokenizer.json": b"{}",
    **dict.fromkeys(PARTS, b"eight bits"),
}


@pytest.fixture
def access(hub: FakeHub, tmp_path: Path) -> HubAccess:
    hub.files = dict(FILES)
    return reach(tmp_path, hub.endpoint)


def fetched(path: Path) -> list[str]:
    snapshot = snapshot_of(path)
    assert snapshot is not None
    return sorted(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file())


@pytest.mark.parametrize("quant", ["Q4_K_M", "q4km", "q4"])
def test_only_the_chosen_file_is_fetched(access: HubAccess, tmp_path: Path, quant: str) -> None:
    path = fetch_model(MODEL, "main", access, quant=quant)
    assert path == tmp_path / "models--org--name/snapshots" / COMMIT / "m-Q4_K_M.gguf"
    assert path.read_bytes() == b"four bits"
    assert fetched(path) == ["m-Q4_K_M.gguf", "tokenizer.json"]


def test_all_parts_of_a_split_file_are_fetched(access: HubAccess) -> None:
    path = fetch_model(MODEL, "main", access)
    assert path.name == "m-Q8_0-00001-of-00003.gguf"
    assert fetched(path) == [*PARTS, "tokenizer.json"]


def test_a_lacking_part_is_named(hub: FakeHub, access: HubAccess) -> None:
    del hub.files[PARTS[1]]
    with pytest.raises(DownloadError, match=r"lacks Q8_0/m-Q8_0-00002-of-00003\.gguf"):
        fetch_model(MODEL, "main", access, quant="q8_0")
    assert not hub.asked(PARTS[0])


def test_a_quant_that_is_not_there_fetches_nothing(hub: FakeHub, access: HubAccess) -> None:
    with pytest.raises(PreflightError) as caught:
        fetch_model(MODEL, "main", access, quant="q9")
    assert caught.value.kind == "quant_not_found"
    assert len(hub.requests) == 1


def test_what_was_fetched_serves_without_the_hub(access: HubAccess, tmp_path: Path) -> None:
    path = fetch_model(MODEL, "main", access, quant="q4")
    away = reach(tmp_path, access.endpoint, offline=True)
    assert fetch_model(MODEL, "main", away) == path
    with pytest.raises(PreflightError, match="no GGUF file for quant 'q8'"):
        fetch_model(MODEL, "main", away, quant="q8")


def transfer(access: HubAccess, client: Any) -> Transfer:
    cache = RepoCache(access.root, "org", "name-GGUF")
    return Transfer(client, cache, COMMIT, f"{access.endpoint}/org/name-GGUF/resolve/{COMMIT}")


def test_the_original_repository_lends_its_tokenizer(
    hub: FakeHub, access: HubAccess, tmp_path: Path
) -> None:
    with access.client() as client:
        for _ in range(2):
            fetch_original_tokenizer(
                transfer(access, client), HubId(None, "org", "name-GGUF"), access
            )
    folder = RepoCache(tmp_path, "org", "name").local_snapshot("main")
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == ["tokenizer.json"]
    assert len([path for _, path, _, _ in hub.requests if path.startswith("/api/")]) == 1


@pytest.mark.parametrize("name", ["name", "name-GGUF"])
def test_without_an_original_the_file_serves_alone(
    hub: FakeHub, access: HubAccess, tmp_path: Path, name: str
) -> None:
    hub.listing_status = 404
    with access.client() as client:
        fetch_original_tokenizer(transfer(access, client), HubId(None, "org", name), access)
    assert list(tmp_path.iterdir()) == []
    assert len(hub.requests) == (name != "name")


def test_names_of_originals() -> None:
    names = ("Qwen3-0.6B-GGUF", "m-gguf", "m", "-GGUF")
    assert [original_name(name) for name in names] == ["Qwen3-0.6B", "m", None, None]


def test_files_of_a_folder_and_of_those_in_it(tmp_path: Path) -> None:
    for name in ("b.gguf", "sub/a.gguf", "sub/deep/c.gguf", "x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert gguf_files(tmp_path) == ["b.gguf", "sub/a.gguf"]
    assert snapshot_of(tmp_path / "b.gguf") is None
