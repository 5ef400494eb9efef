"""Settings reach OpenMP, and nothing of the measuring process's own does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import threads


def test_a_setting_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"other": {"GOMP_SPINCOUNT": "0"}}
    monkeypatch.setattr(threads, "SETTINGS", settings)
    sizes = ["--shape", "small", "--threads", "2", "--rounds", "2", "--tokens", "2"]
    words = ["threads", *sizes, "--json", "-", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    threads.main()
    out, err = capsys.readouterr()
    rows = json.loads(out)["rows"]
    assert [(row["threads"], row["setting"]) for row in rows] == [(2, "other")]
    speeds = [f"{row[kind]:.1f} (" for row in rows for kind in ("free_tok_s", "shared_tok_s")]
    assert all(speed in err for speed in speeds)  # what differs by less than its range does not
    assert all(row["free_tok_s"] > 0 and row["shared_cpu_ms"] > 0 for row in rows)


def test_a_busy_loop_ends_with_its_block() -> None:
    with threads.busy(1):
        (child,) = children()
    assert child not in children()


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
