"""Plots can be made of results that are there, without measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import long_context

SVG = "{http://www.w3.org/2000/svg}"


def result(**kinds: dict[str, Any]) -> str:
    return json.dumps({"size": "small", "threads": 1, "tok_s": kinds})


@pytest.fixture
def results(tmp_path: Path) -> list[str]:
    context = {"context": {"128": 9.0, "1024": 7.0}, "batch": {}, "prompt": {}, "bytes": [1, 2]}
    prompt = {"context": {}, "batch": {}, "prompt": {"128": 90.0, "512": 80.0}}
    texts = result(dense=context, MoE=context), result(dense=prompt)
    files = [tmp_path / name for name in ("first.json", "second.json")]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return [str(file) for file in files]


def test_results_are_joined_and_plotted(
    results: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--of", *results, "--plots", str(tmp_path), "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["long_context", *words])
    long_context.main()
    joined = json.loads((tmp_path / "out.json").read_text())["tok_s"]
    assert joined["dense"]["context"] == {"128": 9.0, "1024": 7.0}
    assert joined["dense"]["prompt"] == {"128": 90.0, "512": 80.0}
    assert sorted(file.name for file in tmp_path.glob("*.svg")) == [
        "by-context.svg",
        "by-prompt.svg",
    ]
    drawn = ElementTree.parse(tmp_path / "by-context.svg").getroot()
    assert len(drawn.findall(f"{SVG}polyline")) == 2
    words = {text.text for text in drawn.iter(f"{SVG}text")}  # type: ignore[assignment]  # other words
    assert {"dense", "MoE", "128", "1024"} <= set(words)


def test_compiled_models_stand_beside_the_others(
    results: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {str(x): 10.0 for x in (128, 1024, 32768)}
    compiled = {
        f"{name}, compiled": {"context": speeds, "bytes": [1, 2]} for name in ("MoE", "dense")
    }
    plain = {name: {"context": {"128": 9.0, "1024": 7.0}, "bytes": [1, 2]} for name in "abc"}
    first, second = tmp_path / "compiled.json", tmp_path / "more.json"
    first.write_text(result(**compiled))
    second.write_text(result(**plain))
    whole = long_context.merged([first, *map(Path, results), second])
    names = ["dense", "MoE", "a", "b", "c", "MoE, compiled", "dense, compiled"]
    assert list(whole["tok_s"]) == names
    assert len(whole["of"]) == 4
    table = long_context.table("context", whole["tok_s"]).splitlines()
    assert table[0].startswith("| architecture | 128 | 1024 | 32768 | last / first |")
    assert "| dense | 9.0 | 7.0 |  | 0.78 × | 0.50 × |" in table
    long_context.write_plots(whole["tok_s"], tmp_path)
    drawn = ElementTree.parse(tmp_path / "by-context.svg").getroot()
    lines = drawn.findall(f"{SVG}polyline")
    looks = [(line.get("stroke"), line.get("stroke-dasharray")) for line in lines]
    assert len(set(looks)) == len(names)
    dashed = [look for look in looks if look[1]]
    assert [colour for colour, _ in dashed] == [looks[1][0], looks[0][0]]


def test_medians_that_are_replaced_lose_their_rounds(tmp_path: Path) -> None:
    old = {"context": {"128": 9.0}, "batch": {"1": 3.0}}
    both = old | {"rounds": {kind: {x: [y] for x, y in one.items()} for kind, one in old.items()}}
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(result(dense=both))
    second.write_text(result(dense={"context": {"128": 5.0}}))
    dense = long_context.merged([first, second])["tok_s"]["dense"]
    assert dense["context"] == {"128": 5.0}
    assert dense["rounds"] == {"batch": {"1": [3.0]}}


def test_ratios_are_kept_by_kind_as_long_as_both_sides_are(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.json", "second.json", "third.json")]
    for file, kind in zip(files, ("context", "batch"), strict=False):
        one = {kind: {"1": 2.0}, "rounds": {kind: {"1": [2.0]}}}
        both = {"a": one, "a, compiled": one | {"of_plain": {kind: {"1": [1.0]}}}}
        file.write_text(result(**both))
    joined = long_context.merged(files[:2])["tok_s"]
    assert set(joined["a, compiled"]["of_plain"]) == {"context", "batch"}
    files[2].write_text(result(a={"context": {"1": 3.0}}))
    joined = long_context.merged(files)["tok_s"]
    assert set(joined["a, compiled"]["of_plain"]) == {"batch"}
    assert long_context.beside_plain("context", joined) == ""


def test_results_of_other_models_are_not_joined(results: list[str]) -> None:
    other = Path(results[1])
    other.write_text(other.read_text().replace("small", "tiny"))
    with pytest.raises(SystemExit, match="size"):
        long_context.merged([Path(file) for file in results])


def test_every_kind_of_layer_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--size", "tiny", "--rounds", "1", "--steps", "2", "--threads", "1"]
    works = ["--contexts", "32", "64", "--batches", "1", "2", "--prompts", "16"]
    to = ["--json", str(tmp_path / "out.json"), "--plots", str(tmp_path), "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["long_context", *sizes, *works, *to])
    long_context.main()
    found = json.loads((tmp_path / "out.json").read_text())["tok_s"]
    assert list(found) == list(long_context.ARCHITECTURES)
    assert all(speed > 0 for one in found.values() for speed in one["batch"].values())
    assert all(len(one["rounds"]["batch"]["2"]) == 1 for one in found.values())
    assert len(list(tmp_path.glob("by-*.svg"))) == 3


def test_compiled_models_take_turns_with_the_others() -> None:
    taken = {
        ("a", "batch", 1): [9.0, 2.0, 4.0, 6.0],
        ("a, compiled", "batch", 1): [9.0, 3.0, 4.0, 12.0],
    }
    plain, compiled = (long_context.medians(taken, name) for name in ("a", "a, compiled"))
    assert plain["batch"] == {"1": 4.0}
    assert plain["context"] == {}
    compiled["of_plain"] = long_context.ratios(compiled["rounds"], plain["rounds"])
    assert compiled["of_plain"] == {"batch": {"1": [1.5, 1.0, 2.0]}}
    found = {"a": plain, "a, compiled": compiled}
    assert "| a, compiled | 1.50 × (1.00–2.00) |" in long_context.beside_plain("batch", found)
    assert long_context.beside_plain("context", found) == ""
