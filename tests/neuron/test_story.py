"""How a request ended, from what was noted on its way and how its exchange ended."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from helexa.engine.outputs import DraftCounts
from helexa.errors import EngineLost, HelexaError, NumericalError, OutOfMemory
from helexa.http import Ending
from helexa.neuron.metrics import RequestEnd
from helexa.neuron.request_line import RequestLine
from helexa.neuron.story import Story
from helexa.refusals import ModelNotFound, QueueFull
from helexa.text.events import Finish, Usage
from tests.neuron.daemons import Log

USAGE = Usage(
    prompt_tokens=7,
    completion_tokens=5,
    reasoning_tokens=2,
    cached_tokens=3,
    prefill_ms=500,
    decode_ms=2000,
    prefill_tokens=7,
)
FINISH = Finish("length", USAGE)


def told(
    status: int | None,
    outcome: str,
    *,
    finish: Finish | None = None,
    error: Exception | None = None,
) -> tuple[str, RequestEnd]:
    """The text of the line, and what is counted, of a request that got two tokens."""
    line = RequestLine(request_id="r", surface="chat", model="m", clock=count().__next__)
    story = Story(line=line, surface="chat", finish=finish, error=error)
    story.runs(7, lambda: 2)
    with Log().listening() as log:
        end = story.end(Ending(status, outcome, 1.0, 0))
    ((text, _),) = log.ends("r")
    return text, end


BROKEN = RuntimeError("kaboom")


@pytest.mark.parametrize(
    ("status", "outcome", "finish", "error", "text", "counted", "code"),
    [
        (200, "done", FINISH, None, "request done", "length", None),
        (200, "gone", FINISH, None, "request done", "length", None),
        (None, "gone", None, None, "request done", "cancelled", None),
        (200, "stalled", None, None, "request done", "cancelled", None),
        (404, "done", None, ModelNotFound("m"), "request rejected", "rejected", "model_not_found"),
        (503, "done", None, QueueFull(4), "request rejected", "rejected", "rate_limit_exceeded"),
        (None, "gone", None, QueueFull(4), "request rejected", "rejected", "rate_limit_exceeded"),
        (503, "shutdown", None, None, "request rejected", "rejected", "shutting_down"),
        (200, "shutdown", None, None, "request failed", "error", "shutting_down"),
        (200, "done", None, EngineLost("dead"), "request failed", "error", "model_recovering"),
        (200, "cut", None, BROKEN, "request failed", "error", "internal"),
        (200, "cut", FINISH, None, "request failed", "error", "internal"),
        (200, "done", None, None, "request failed", "error", "internal"),
        (500, "done", None, BROKEN, "request failed", "error", "internal"),
    ],
)
def test_n143_every_end(
    status: int | None,
    outcome: str,
    finish: Finish | None,
    error: Exception | None,
    text: str,
    counted: str,
    code: str | None,
) -> None:
    said, end = told(status, outcome, finish=finish, error=error)
    assert (said, end.outcome, end.code) == (text, counted, code)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NumericalError("NaN in the logits"), 500, "request failed"),
        (OutOfMemory("none left", required_mb=9, free_mb=1), 503, "request rejected"),
        (HelexaError("a bad shape"), 500, "request failed"),
        (BROKEN, 500, "request failed"),
    ],
)
def test_what_failed_is_told_by_its_status(error: Exception, status: int, text: str) -> None:
    assert told(status, "done", error=error)[0] == text


def test_what_an_answer_took() -> None:
    _, end = told(200, "done", finish=FINISH)
    assert (end.prompt_tokens, end.cached_prompt_tokens) == (7, 3)
    assert (end.completion_tokens, end.reasoning_tokens) == (2, 2)
    assert (end.first_token_s, end.tokens_per_s) == (1.5, 2.0)


def test_drafts_are_told_where_there_were_any() -> None:
    guessed = Finish("stop", replace(USAGE, drafts=DraftCounts(20, 12)))
    for finish, said in ((guessed, "12 of 20"), (FINISH, None)):
        line = RequestLine(request_id="r", surface="chat", model="m")
        with Log().listening() as log:
            Story(line=line, surface="chat", finish=finish).end(Ending(200, "done", 1.0, 0))
        ((_, fields),) = log.ends("r")
        assert fields.get("drafts") == said


def test_the_first_error_is_the_one_that_is_told() -> None:
    story = Story(line=RequestLine(request_id="r", surface="chat"), surface="chat")
    for error in (QueueFull(4), BROKEN):
        with pytest.raises(type(error)), story.watching():
            raise error
    assert isinstance(story.error, QueueFull)
