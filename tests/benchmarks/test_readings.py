"""Options that cannot be meant are refused before anything is measured; stdout is JSON alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import readings

SCRIPTS = (
    *(
        "engine",
        "floor",
        "long_context",
        "load",
        "drafts",
        "threads",
        "overhead",
        "prefix",
        "start",
    ),
    *("ledger", "neuron_load", "formats", "format_memory"),
    *("gateway", "gateway_crash", "gateway_soak", "gpu_bytes", "gpu_decode", "gpu_products"),
)
COUNTS = {
    "engine": ("rounds", "threads", "prompts"),
    "floor": ("rounds", "threads"),
    "long_context": ("rounds", "threads", "steps", "contexts", "batches", "prompts"),
    "load": ("rounds", "threads"),
    "drafts": ("rounds",),
    "threads": ("rounds", "threads", "tokens", "loops"),
    "overhead": ("rounds", "rows"),
    "prefix": ("rounds", "tokens"),
    "start": ("rounds",),
    "ledger": ("rounds", "pairs"),
    "neuron_load": ("clients", "seconds"),
    "formats": ("count",),
    "gateway": ("rounds", "seconds"),
    "gateway_crash": ("kills",),
    "gateway_soak": ("requests",),
}


def refused(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{script}").main()
    assert ended.value.code == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_result_needs_a_place(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(script, ["--json", "/nonexistent/result.json"], monkeypatch)
    assert "argument --json: cannot write /nonexistent/result.json" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "names"), COUNTS.items(), ids=list(COUNTS))
def test_nothing_is_not_measured(
    script: str,
    names: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in names:
        refused(script, [f"--{name}", "0"], monkeypatch)
        assert f"argument --{name}: '0' is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("engine", ["--decode", "1"], "argument --decode"),
        ("engine", ["--prompts", "5000"], "5024 tokens of prompt and answer"),
        ("engine", ["--profile", "/nonexistent/t.json"], "argument --profile: cannot write"),
        ("engine", ["--without", "nobody"], "argument --without"),
        ("engine", ["--folder", "/dev/null/x"], "argument --folder"),
        ("drafts", ["--tokens", "1"], "argument --tokens"),
        ("long_context", ["--profile", "/nonexistent/t.json"], "argument --profile: cannot write"),
        ("long_context", ["--plots", "/nonexistent"], "argument --plots"),
        ("long_context", ["--of", "/nonexistent.json"], "argument --of: cannot read"),
        ("long_context", ["--contexts", "--batches", "--prompts"], "nothing is to be measured"),
        ("prefix", ["--seen", "1"], "argument --seen"),
        ("ledger", ["slqite"], "is not memory, sqlite or"),
        ("ledger", ["--work", "-1"], "argument --work: '-1' is no number from 0 on"),
        *(
            ("gpu_bytes", [f"--{cost}-us", given], f"'{given}' is no number from 0 on")
            for cost, given in (("launch", "-1"), ("own", "nan"), ("host", "inf"))
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    script: str,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(script, words, monkeypatch)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", [readings.new_file, readings.json_target])
def test_a_file_is_left_as_it_is(kind: Callable[[str], object], tmp_path: Path) -> None:
    there, new = tmp_path / "there.json", tmp_path / "new.json"
    there.write_text("before")
    assert str(kind(str(there))) == str(there)
    kind(str(new))
    assert there.read_text() == "before"
    assert os.listdir(tmp_path) == ["there.json"]


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    ms: float


def publish(to: str | None) -> None:
    readings.publish(
        to, {"rounds": 1}, [Row("a", 2.0)], {"": lambda r: r.name, "ms": lambda r: f"{r.ms}"}
    )


def test_documents_and_tables_have_streams_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("-")
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert {"date", "command", "machine", "python", "rounds"} <= document.keys()
    assert document["rows"] == [{"name": "a", "ms": 2.0}]
    assert err == "|  | ms |\n| --- | ---: |\n| a | 2.0 |\n"
    publish(str(tmp_path / "out.json"))
    assert capsys.readouterr().out == err
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == document["rows"]


def test_a_ratio_has_its_range() -> None:
    assert readings.spread([1.124, 0.97, 1.05]) == "1.05 × (0.97–1.12)"
    assert readings.spread([1.05]) == "1.05 ×"
    assert readings.spread([85.4, 80.0], ".0f", " %") == "83 % (80–85)"
