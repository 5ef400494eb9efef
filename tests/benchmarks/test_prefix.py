"""What was seen is found again, what is new is not; the least part of the work is arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import prefix
from benchmarks.prefix import least_part
from benchmarks.shapes import SHAPES, tensor_shapes


def test_a_prompt_that_was_seen_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--shape", "small", "--tokens", "512", "--seen", "0.9", "--rounds", "3", "--json", "-"]
    monkeypatch.setattr("sys.argv", ["prefix", *words, "--folder", str(tmp_path)])
    prefix.main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    turns = row["rounds"]
    assert [turn["cached"] for turn in turns] == [448] * 3  # of 461 in common, whole pages of 16
    assert min(turn["warm_s"] for turn in turns) < min(turn["cold_s"] for turn in turns)
    assert row["unseen"] == 1 - 448 / 512


def test_the_least_part_counts_every_product() -> None:
    sizes, tokens, cached = SHAPES["small"], 100, 90
    matrices = sum(
        rows * columns
        for name, (rows, columns) in (
            (name, shape) for name, shape in tensor_shapes("small").items() if len(shape) == 2
        )
        if "layers.0." in name
    )
    wide = sizes["num_attention_heads"] * sizes["head_dim"]
    works = [matrices + 2 * wide * (before + 1) for before in range(tokens)]
    assert least_part("small", tokens, cached) == pytest.approx(sum(works[cached:]) / sum(works))


def test_nothing_cached_is_all_the_work() -> None:
    assert least_part("0.6b", 8192, 0) == 1
