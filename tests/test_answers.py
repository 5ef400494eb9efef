"""What an answer reports of its request, however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

import helexa
from helexa import Finish, Text
from helexa.answers import Answer
from helexa.engine.outputs import CacheReport, DraftCounts, StepOutput, Timing
from helexa.errors import EngineLost
from helexa.text.parsing.markers import Markers
from helexa.text.parsing.parser import OutputParser
from helexa.text.tokenizer import Tokenizer

TINY = Path(helexa.__file__).parent / "builtin" / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(TINY)


def answer(tokenizer: Tokenizer, *stop: str) -> Answer:
    return Answer(7, OutputParser(tokenizer, Markers(), stop=stop, parse=False), tokenizer)


def outputs(tokenizer: Tokenizer, text: str) -> list[StepOutput]:
    """A step for each token: the first after 30 ms, each further one 10 ms later."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [
        StepOutput(
            1,
            (token_id,),
            cache=None if index else CacheReport(4, "hit"),
            timing=Timing(prefill_ms=30.0, decode_ms=10.0 * index, queue_ms=500.0),
        )
        for index, token_id in enumerate(ids)
    ]


def test_an_answer_that_a_stop_string_ends_has_the_engines_times(tokenizer: Tokenizer) -> None:
    """The engine does not know that it is over, and the reader may be late."""
    reader = answer(tokenizer, "3")
    events = []
    taken = 0
    for output in outputs(tokenizer, "1 2 3 4 5"):
        taken += 1
        events += reader.push(output)
        if reader.done:
            break
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert "".join(event.text for event in events if isinstance(event, Text)) == "1 2 "
    assert finish.reason == "stop"
    usage = finish.usage
    assert (usage.prefill_ms, usage.decode_ms) == (30.0, 10.0 * (taken - 1))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (7, taken, 4)
    assert usage.tokens_per_second == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("stop", "accepted"), [("2", 2), ("3", 4), ("4", 5), ("5", 7), ("none", 9)]
)
def test_drafts_behind_a_stop_string_are_not_counted(
    tokenizer: Tokenizer, stop: str, accepted: int
) -> None:
    """Of tokens 1 … 5 the last was not drafted, all others are; each digit is one."""
    ids = tuple(tokenizer.encode("1 2 3 4 5 6", add_special_tokens=False))
    reader = answer(tokenizer, stop)
    events = reader.push(StepOutput(1, ids[:1]))
    events += reader.push(StepOutput(1, ids[1:6], drafts=DraftCounts(9, 4)))
    if not reader.done:
        events += reader.push(
            StepOutput(1, ids[6:], finish_reason="stop", drafts=DraftCounts(20, 9))
        )
    assert isinstance(events[-1], Finish)
    assert events[-1].usage.drafts == DraftCounts(9 if accepted <= 4 else 20, accepted)


def test_the_same_error_for_many_readers_keeps_none_of_them(tokenizer: Tokenizer) -> None:
    lost = EngineLost("the engine died")
    for _ in range(2):
        reader = answer(tokenizer)
        with pytest.raises(EngineLost) as caught:
            reader.push(StepOutput(1, error=lost))
        assert reader.done
        assert len(caught.traceback) == 2
