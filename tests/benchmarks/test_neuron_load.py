"""A daemon whose memory grows, or whose accounts differ, ends the benchmark with status 1."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks import neuron_load
from benchmarks.neuron_load import FLAT_PERCENT, Sample, complaints

SAMPLE = asdict(Sample(0.5, 60.0, 300.0, 12, 4, 0, 0))


def found(**changes: Any) -> dict[str, Any]:
    sound = {
        **{"clients": 1, "seconds": 1.0, "elapsed_s": 1.0, "requests": 1, "served": 1},
        **{"left_running": 0, "left_early": 0, "refused": {}, "errors": {}, "tokens_per_s": 1.0},
        **{"head_median_s": 0.1, "head_p95_s": 0.1, "idle_after_s": 0.0},
        "accounts": {
            **{"refusals_seen": 0, "refusals_counted": 0},
            **{"refusals_agree": True, "requests_agree": True},
        },
        **{"daemon_growth_percent": FLAT_PERCENT, "child_growth_percent": -1.0},
        **{"before": SAMPLE, "after": SAMPLE, "samples": [SAMPLE]},
    }
    return sound | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"daemon_growth_percent": 36.0}, "the daemon grew by 36.0 %"),
        ({"child_growth_percent": 3.1}, "the child grew by 3.1 %"),
        ({"idle_after_s": None}, "somebody still runs or waits"),
    ],
)
def test_what_should_not_be_fails(
    changes: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(neuron_load, "measure", lambda *_: found(**changes))
    monkeypatch.setattr("sys.argv", ["neuron_load", "--json", "-"])
    with pytest.raises(SystemExit, match=said):  # a text: status 1
        neuron_load.main()
    assert json.loads(capsys.readouterr().out)["samples"] == [SAMPLE]


def test_a_sound_one_has_no_complaints() -> None:
    assert complaints(found()) == []
