"""Every start is measured until what it is for is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.start import Reading, Start, measure, summary


@pytest.mark.timeout(120)
def test_every_start_is_measured() -> None:
    found = {start.what: start for start in measure(1)}
    assert list(found) == ["python", "import helexa", "helexa --help", "helexa gateway"]
    assert found["python"].wall_ms < found["helexa gateway"].wall_ms
    gateway = found["helexa gateway"]
    assert gateway.answer_ms is not None
    assert gateway.answer_ms > gateway.wall_ms
    assert gateway.resident_mb is None or gateway.resident_mb < 80


def test_the_least_and_the_median_are_told() -> None:
    readings = [Reading(3.0, 5.0, 2.0, 30.0), Reading(1.0, 4.0, 1.0, 29.0), Reading(2.0, 6.0, 1.5)]
    found = summary("it", readings)
    assert replace(found, rounds=[]) == Start("it", 1.0, 2.0, 4.0, 1.0, 29.0)
    assert [one["wall_ms"] for one in found.rounds] == [3.0, 1.0, 2.0]
    assert summary("it", [Reading(1.0, None, 1.0)]).resident_mb is None
