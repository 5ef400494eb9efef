"""With and without steps ahead the same is asked for, and it is counted what became of them."""

from __future__ import annotations

from benchmarks.look_ahead import WAYS, Round, Streams, measured
from helexa.engine.loading import load_model


def test_streams_run_to_their_ends() -> None:
    streams = Streams(load_model("tiny", device="cpu"), 2, 20, 5)
    for way in WAYS:
        found = measured(streams, way, 2)
        assert found["same"]
        assert found["used"] == found["ahead"] == 0  # on a CPU nothing is launched ahead
        assert min(found["plain_ms"], found["ahead_ms"]) > 0


def test_ratios_are_of_rounds() -> None:
    times = iter([9.0, 1.0, 3.0, 4.0, 2.0])  # once to warm up, then pairs in turns

    class Scripted(Streams):
        def __init__(self) -> None:
            pass

        def round(self, way: str, *, ahead: bool) -> Round:
            return Round(next(times), 10, 8 * ahead, 6 * ahead, [[1]])

    found = measured(Scripted(), "greedy", 2)
    assert found["rounds"] == [(3.0, 1.0), (4.0, 2.0)]
    assert (found["plain_ms"], found["ahead_ms"], found["speed"]) == (3.5, 1.5, 2.5)
    assert (found["used"], found["ahead"]) == (0.75, 0.6)
