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
    assert all(0 < row["handed_least_ms"] <= row["handed_median_ms"] for row in rows)
    assert all(row["served_median_ms"] > 0 and row["futures_median_ms"] > 0 for row in rows)
    for row in rows:
        step = row["handed_rounds"][0] + row["handed_model_rounds"][0]
        assert row["beyond_rounds"] == [pytest.approx(step - row["model_rounds"][0])]


def test_a_step_lasts_until_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WARM_UP_STEPS", 1)
    steps = overhead.Steps(1, began_s=[0.0, 9.0, 9.5, 10.5], model_s=[0.1, 0.2, 0.4, 0.3])
    found = steps.cost()
    assert found.ms == pytest.approx(1e3 * (0.3 + 0.6) / 2)
    assert found.model_ms == pytest.approx(300)
