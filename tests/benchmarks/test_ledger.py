"""The printed columns are the ones that the README explains, and all rounds are kept."""

from __future__ import annotations

import json

import pytest

from benchmarks import ledger


def test_stores_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger, "CONCURRENCY", (1, 4))
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    words = ["--rounds", "2", "--pairs", "20", "--work", "0", "--json", "-"]
    monkeypatch.setattr("sys.argv", ["ledger", *words])
    ledger.main()
    out, err = capsys.readouterr()
    rows = json.loads(out)["rows"]
    assert [(row["store"], row["tasks"]) for row in rows] == [
        *(("memory", 1), ("memory", 4)),
        *(("SQLite", 1), ("SQLite", 4)),
    ]
    assert all(len(row["rounds"]) == 2 and row["per_second"] > 0 for row in rows)
    assert err.startswith(
        "| store | tasks | requests per second | µs of processor for metering "
        "| `reserve` takes, µs |"
    )
