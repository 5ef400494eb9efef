"""A step's overhead is measured by a command, for each number of rows."""

from __future__ import annotations

import json

import pytest

from benchmarks import overhead


def test_overhead_is_told_by_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "STEPS", 8)
    monkeypatch.setattr(overhead, "WARM_UP_STEPS", 2)
    words = ["overhead", "--rows", "1", "3", "--rounds", "1", "--json", "-"]
    monkeypatch.setattr("sys.argv", words)
    overhead.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["rows"] for row in rows] == [1, 3]
    assert all(0 < row["least_ms"] <= row["median_ms"] for row in rows)
