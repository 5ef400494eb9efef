"""A trace that viewers read, and a table that accounts for all of a decode step's time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import engine, profiling
from benchmarks.profiling import DECODE, PREFILL, PYTHON, beside, profiled


def test_operators_of_decode_steps_are_counted(tmp_path: Path) -> None:
    x = torch.randn(64, 64)

    def step() -> None:
        for _ in range(3):
            x @ x
        time.sleep(0.02)

    works = [(PREFILL, lambda: x.exp()), (DECODE, step), (DECODE, step)]
    found = {one.name: one for one in profiled(works, tmp_path / "trace.json")}
    assert found["aten::mm"].calls == 3
    assert found[PYTHON].ms >= 20
    assert "aten::exp" not in found
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count(DECODE) == 2
    assert names.count(PREFILL) == 1


def test_no_decode_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decode step"):
        profiled([(PREFILL, lambda: None)], tmp_path / "trace.json")


def test_the_engines_steps_are_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--shape", "small", "--prompts", "8", "--decode", "4", "--folder", str(tmp_path)]
    trace = tmp_path / "trace.json"
    monkeypatch.setattr("sys.argv", ["engine", *words, "--profile", str(trace), "--threads", "1"])
    engine.main()
    told = capsys.readouterr().out
    assert "aten::mm" in told
    assert "calls a layer" in told
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count(PREFILL) == 1
    assert names.count(DECODE) == 3


def test_the_table_has_everything() -> None:
    many = [profiling.Operator(f"op{i}", 1.0, 4.0) for i in range(20)]
    head, _, *lines = profiling.table(many, layers=4).splitlines()
    assert head == "| a decode step | ms | of it | calls | calls a layer |"
    assert len(lines) == 18
    assert lines[-2:] == [
        "| 4 more | 4.00 | 20% | 16 | 4.0 |",
        "| all | 20.00 | 100% | 80 | 20.0 |",
    ]


def test_a_result_has_every_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--shape", "small", "--prompts", "8", "--decode", "4", "--folder", str(tmp_path)]
    to = ["--profile", str(tmp_path / "trace.json"), "--json", "-"]
    monkeypatch.setattr("sys.argv", ["engine", *words, *to, "--threads", "1"])
    engine.main()
    document = json.loads(capsys.readouterr().out)
    assert document["shape"] == "small"
    (profile,) = document["profiles"]
    assert profile["format"] == "16 bit"
    found = {one["operator"]: one for one in profile["operators"]}
    assert found[PYTHON]["us"] > 0
    products = [one for one in found.values() if one["calls_per_layer"] == 4]
    assert products, "nothing is called four times in each of the four layers"
    assert all(one["us"] == pytest.approx(one["calls"] * one["us_per_call"]) for one in products)


def test_several_profiles_have_files_of_their_own() -> None:
    assert beside(Path("a/trace.json"), "16 bit") == Path("a/trace-16-bit.json")
