"""The page cache is in the state that a reading says it was in; `cat` is what loads are held to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.load import Turn, bring_to, loaders, resident, summary, turn
from benchmarks.shapes import make_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mincore(2), posix_fadvise(2)")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(bytes(2**22))
    return made


def test_files_are_dropped_and_brought_back(file: Path) -> None:
    try:
        bring_to(file, "cold")
    except SystemExit:
        pytest.skip("this file system keeps its pages in memory")
    assert resident(file) == 0.0
    bring_to(file, "warm")
    assert resident(file) == 1.0


def test_a_file_that_stays_is_said_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "resident", lambda file: 0.5)
    with pytest.raises(SystemExit, match=r"50% of .* stays in memory"):
        bring_to(file, "cold")


def test_a_turn_loads_and_asks_a_model(tmp_path: Path) -> None:
    folder = make_checkpoint("small", tmp_path)
    found = turn(
        loaders(load.PLAIN, False)["helexa"], folder, folder / "model.safetensors", "warm", 1
    )
    assert 0 < found.load_s < found.token_s
    assert found.cat_s > 0


def test_ratios_are_of_turns(file: Path) -> None:
    turns = [Turn(1.0, 2.0, 3.0, 0.5), Turn(4.0, 4.0, 3.0, 4.0), Turn(2.0, 2.0, 3.0, 1.0)]
    found = summary("16 bit", "helexa", "cold", file, turns)
    assert found.file_mib == 4
    assert (found.load_s, found.cat_s, found.of_cat, found.token_of_cat) == (2.0, 1.0, 0.5, 0.5)


@pytest.mark.parametrize("present", [(), ("transformers",), ("llama_cpp",)])
def test_peers_that_are_missing_are_left_out(
    present: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in present or None)
    names = set(loaders(load.PLAIN, True))
    assert {"helexa", "helexa, compiled"} <= names
    assert ("transformers" in names) is ("transformers" in present)
    assert ("llama.cpp, mapped" in names) is ("llama_cpp" in present)
    assert "transformers" not in loaders("q8_0", False)
