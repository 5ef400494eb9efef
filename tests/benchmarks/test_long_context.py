"""Plots can be made of results that are there, without measuring."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import long_context

SVG = "{http://www.w3.org/2000/svg}"


def result(**kinds: dict[str, dict[str, float]]) -> str:
    return json.dumps({"size": "small", "threads": 1, "tok_s": kinds})


@pytest.fixture
def results(tmp_path: Path) -> list[str]:
    context = {"context": {"128": 9.0, "1024": 7.0}, "batch": {}, "prompt": {}, "bytes": [1, 2]}
    prompt = {"context": {}, "batch": {}, "prompt": {"128": 90.0, "512": 80.0}}
    texts = result(dense=context, MoE=context), result(dense=prompt)  # type: ignore[arg-type]  # ends
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
    assert len(list(tmp_path.glob("by-*.svg"))) == 3
