"""Drafts over the wire: who gets them, and where they are counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helexa.neuron.config import EngineSection, NeuronConfig
from helexa.neuron.ids import ModelSpec
from tests.neuron.daemons import TINY, Daemon, running
from tests.waiting import wait_until

REPEAT: Any = [
    {"role": "user", "content": "Repeat exactly: red green blue red green blue red green blue"}
]
ASKED: Any = {"model": TINY, "temperature": 0, "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module", params=["lookup", None])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """One that guesses unless it is told not to, and one that must be told to."""
    engine = EngineSection(drafter=request.param)
    with running(
        NeuronConfig(port=0, default_models=(ModelSpec(model_id=TINY),), engine=engine)
    ) as daemon:
        yield daemon


def test_a_request_decides(daemon: Daemon) -> None:
    """What is drafted changes nothing of the answer; usage says what came of it."""
    by_default = daemon.neuron.config.engine.drafter is not None
    answers = set()
    for speculative in (None, True, False):
        asked = {} if speculative is None else {"speculative": speculative}
        drafted = by_default if speculative is None else speculative
        told = daemon.post("/v1/chat/completions", messages=REPEAT, **ASKED, **asked).json()
        answers.add(told["choices"][0]["message"]["content"])
        assert ("helexa_drafts" in told["usage"]) == drafted
        text = "one two three one two three one two"
        told = daemon.post("/v1/completions", prompt=text, **ASKED, **asked).json()
        assert ("helexa_drafts" in told["usage"]) == drafted
    assert len(answers) == 1


def test_what_came_of_drafts_is_counted(daemon: Daemon) -> None:
    """Of one answer in its usage, of all of them in the metrics."""
    before = {
        name: daemon.metric(f"draft_tokens{name}_total", model=TINY) for name in ("", "_accepted")
    }
    told = daemon.post("/v1/chat/completions", messages=REPEAT, **ASKED, speculative=True).json()
    counts = told["usage"]["helexa_drafts"]
    assert 0.5 * counts["drafted"] < counts["accepted"] <= counts["drafted"]
    assert counts["accepted"] < told["usage"]["completion_tokens"]
    for name, more in (("", counts["drafted"]), ("_accepted", counts["accepted"])):
        metric = f"draft_tokens{name}_total"
        wait_until(lambda m=metric, w=before[name] + more: daemon.metric(m, model=TINY) == w)


@pytest.mark.parametrize("value", ["yes", 1])
def test_only_true_and_false_are_taken(daemon: Daemon, value: object) -> None:
    refused = daemon.post("/v1/chat/completions", messages=REPEAT, **ASKED, speculative=value)
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "speculative"
