"""Ratios and parts of the bandwidth are of one round, and their range is told."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engine
from benchmarks.engine_table import table
from benchmarks.engines import Times, Work
from benchmarks.shapes import SHAPES, make_checkpoint, step_bytes
from helexa.engine.loading import load_model


def one(speed: float, helexa: float, peer: float) -> dict[str, Any]:
    """A round: GB/s, and seconds of decoding."""
    times = {"helexa": Times(1, helexa), "llama.cpp": Times(1, peer)}
    return {"prompt": 8, "read_gb_s": {"helexa": speed, "llama.cpp": 30.0}, "times": times}


ROUNDS = [one(10.0, 2.0, 1), one(20.0, 1.0, 2), one(10.0, 1.0, 1)]


def test_every_round_counts() -> None:
    args = Namespace(shape="small", decode=3)
    found = engine.row("decode", "16 bit", 8, ROUNDS, args)
    assert found["ratios"] == {"llama.cpp": [0.5, 2.0, 1.0]}
    assert found["ratio"] == {"llama.cpp": 1.0}
    assert found["tok_s"] == {"helexa": 2.0, "llama.cpp": 2.0}
    each = step_bytes("small", 9.5) / 1e9
    assert found["of_bandwidth"]["helexa"] == pytest.approx([each / 10, each / 10, each / 5])
    lines = table([found], ["helexa", "llama.cpp"]).splitlines()
    assert lines[0] == "| format | work | helexa | llama.cpp | helexa / llama.cpp |"
    assert lines[2] == "| 16 bit | decode @8 | 2.0 | 2.0 | 1.00 × (0.50–2.00) |"
    assert "of the read bandwidth" in lines[3]


def test_bandwidth_is_that_around_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading serves the engine before it and the one behind it."""
    readings = iter([10.0, 20.0, 40.0])
    monkeypatch.setattr(engine, "read_bandwidth", lambda threads: next(readings))
    workers: list[Any] = [Quick("first"), Quick("second")]
    found = engine.one_round(workers, Work(8, 3, 1), 1)
    assert found["read_gb_s"] == {"first": 15.0, "second": 30.0}
    assert list(found["times"]) == ["first", "second"]


def test_only_decoding_16_bits_is_held_to_the_bandwidth() -> None:
    args = Namespace(shape="small", decode=3)
    assert "of_bandwidth" not in engine.row("prefill", "16 bit", 8, ROUNDS, args)
    assert "of_bandwidth" not in engine.row("decode", "q8_0", 8, ROUNDS, args)


def test_a_step_reads_the_model_and_its_context(tmp_path: Path) -> None:
    model = load_model(make_checkpoint("small", tmp_path), device="cpu")
    stored = (tmp_path / "qwen3-small-bfloat16" / "model.safetensors").stat().st_size
    assert 0 <= stored - step_bytes("small", 0) < 20_000  # a head of JSON
    each = model.kv_bytes_per_token * 2 // model.cache_dtype.itemsize
    assert step_bytes("small", 100) - step_bytes("small", 0) == 100 * each


def test_an_embedding_beside_an_output_layer_is_not_read() -> None:
    sizes = SHAPES["8b"]
    both = 2 * 2 * sizes["vocab_size"] * sizes["hidden_size"]
    layers = step_bytes("8b", 0) - both // 2
    assert 13.5e9 < layers < 14.5e9  # 6.95 thousand millions of numbers


def test_the_result_is_all_of_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "Worker", Quick)
    monkeypatch.setattr(engine, "overhead_per_step", lambda rows: 0.5)
    monkeypatch.setattr(engine, "read_bandwidth", lambda threads: 30.0)
    words = ["--shape", "small", "--rounds", "2", "--prompts", "8", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["engine", *words, "--json", "-"])
    engine.main()
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [row["work"] for row in document["rows"]] == ["prefill @8", "decode @8"]
    assert document["rows"][1]["read_gb_s"]["helexa"] == [30.0, 30.0]
    assert {"date", "command", "machine", "torch", "shape", "threads"} <= document.keys()
    assert "| format | work | helexa |" in err


class Quick:
    """A worker that has no process, so that no engine runs."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def measure(self, work: object) -> Times:
        return Times(0.5, 0.25)

    def close(self) -> None:
        """Nothing runs."""
