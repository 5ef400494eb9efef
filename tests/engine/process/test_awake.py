"""What a process slept through does not count."""

from __future__ import annotations

from helexa.engine.process.awake import AwakeClock


def test_what_is_longer_than_any_look_away_was_slept() -> None:
    now = 100.0
    awake = AwakeClock(lambda: now)
    for passed, counted in ((0.1, 0.1), (1.9, 2.0), (3600.0, 2.0), (0.5, 2.5), (2.0, 2.5)):
        now += passed
        assert round(awake(), 9) == counted
    assert awake.slept_s == 3602.0
