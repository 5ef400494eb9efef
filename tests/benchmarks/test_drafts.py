"""A result says what was run, and weights are not left where one happens to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import drafts
from benchmarks.drafts import Reading, Task, measured
from helexa.engine.outputs import DraftCounts


def test_a_result_has_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = {name: drafts.TASKS[name] for name in ("repeat", "story")}
    monkeypatch.setattr(drafts, "TASKS", chosen)
    monkeypatch.setattr("sys.argv", ["drafts", "--tokens", "8", "--rounds", "2", "--json", "-"])
    drafts.main()
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["tokens"], document["rounds"], document["compile"]) == (8, 2, False)
    assert {"date", "command", "machine", "torch", "threads", "shape"} <= document.keys()
    assert all(len(row["rounds"]) == 2 for row in document["rows"])
    assert "| tiny: repeat |" in err
    assert list(tmp_path.iterdir()) == []


def test_ratios_are_of_rounds() -> None:
    times = iter([1.0, 1.0, 4.0, 2.0, 3.0, 6.0])  # twice to warm up, then pairs in turns

    def ask(drafts: bool) -> Reading:
        ms = next(times)
        return Reading(ms, ms, DraftCounts(2, 1), (1, 2))

    found = measured(Task("it", (1,)), ask, 2)
    assert [(one["plain_ms"], one["drafted_ms"]) for one in found.rounds] == [(2, 4), (3, 6)]
    assert found.spread("ms") == "0.50 × (0.50–0.50)"
