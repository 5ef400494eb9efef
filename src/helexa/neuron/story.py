"""What is told of one inference request when it has ended: its line in the log, its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from helexa.neuron.metrics import UNKNOWN, Outcome, RequestEnd, Surface
from helexa.neuron.request_line import Done, RequestLine
from helexa.protocol.envelope import WireError, wire_error
from helexa.refusals import ShuttingDown, UnfinishedAnswer

if TYPE_CHECKING:
    from helexa.http import Ending, Request
    from helexa.text.events import Finish, Usage

STORY: Final = "story"
LEFT: Final = ("gone", "stalled")
INTERNAL: Final = "internal"
MAX_NAME: Final = 200


@dataclass(slots=True, kw_only=True)
class Story:
    """One inference request on its way; whoever it meets fills in what it learns.

    ``waited_s`` is the time in the queue, ``running_s`` when the engine got it, ``tokens`` how
    many tokens of its answer have been read; ``error`` is the first thing that went wrong.
    """

    line: RequestLine
    surface: Surface
    waited_s: float | None = None
    running_s: float | None = None
    prompt_tokens: int = 0
    tokens: Callable[[], int] = lambda: 0
    finish: Finish | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, request: Request, surface: Surface) -> Story:
        """The beginning: found again by `story_of`."""
        place = (request.method, request.path)
        story = cls(
            line=RequestLine(request_id=request.id, surface=surface, place=place), surface=surface
        )
        request.context[STORY] = story
        return story

    def asks(self, model: str, *, stream: bool) -> None:
        """Its body could be read."""
        self.line.model, self.line.stream = model[:MAX_NAME], stream

    def runs(self, prompt_tokens: int, tokens: Callable[[], int]) -> None:
        """The engine has it."""
        self.running_s = self.line.clock()
        self.prompt_tokens, self.tokens = prompt_tokens, tokens

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Remember what goes wrong inside."""
        try:
            yield
        except Exception as error:  # whatever it is, it is told, and goes on its way
            self.error = self.error or error
            raise

    def end(self, ending: Ending) -> RequestEnd:
        """Write the line, and give what the metrics count.

        The error is let go: its traceback knows the request, whose context knows this story.
        """
        error, self.error = self.problem(ending), None
        if error is None:
            return self._answered(gone=ending.outcome in LEFT)
        told = wire_error(error)
        begun = ending.status is not None and ending.status < 400
        if begun or told.status == 500:
            self.line.failed(code=told.code, detail=told.message, completion_tokens=self.tokens())
            return self._counted("error", told)
        self.line.rejected(
            status=told.status,
            error_type=told.type,
            code=told.code,
            detail=told.message,
            **told.extras,
        )
        return self._counted("rejected", told)

    def problem(self, ending: Ending) -> Exception | None:
        """What kept it from being answered; None if nothing did, or only its client left."""
        if self.error is not None:
            return self.error
        if ending.outcome == "shutdown":
            return ShuttingDown()
        if ending.outcome in LEFT or (self.finish is not None and ending.outcome == "done"):
            return None
        return UnfinishedAnswer()

    def _answered(self, *, gone: bool) -> RequestEnd:
        usage, reason = self._usage(), self._reason()
        self.line.done(
            Done(
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.tokens(),
                finish_reason=reason,
                reasoning_tokens=usage.reasoning_tokens if usage else 0,
                cached_tokens=usage.cached_tokens if usage else 0,
                queue_ms=round(1000 * (self.waited_s or 0.0)),
                prefill_ms=round(usage.prefill_ms) if usage else 0,
                decode_ms=round(usage.decode_ms) if usage else 0,
                drafts=drafts_text(usage),
                client_gone=gone,
            )
        )
        return self._counted(reason)

    def _reason(self) -> Outcome:
        return "cancelled" if self.finish is None else self.finish.reason

    def _usage(self) -> Usage | None:
        return None if self.finish is None else self.finish.usage

    def _counted(self, outcome: Outcome, told: WireError | None = None) -> RequestEnd:
        usage = self._usage()
        return RequestEnd(
            model=self.line.model or UNKNOWN,
            surface=self.surface,
            outcome=outcome,
            code=None if told is None else told.code or INTERNAL,
            duration_s=self.line.clock() - self.line.started_s,
            queue_wait_s=self.waited_s,
            first_token_s=self._first_token_s(usage),
            tokens_per_s=usage.tokens_per_second or None if usage else None,
            prompt_tokens=self.prompt_tokens,
            cached_prompt_tokens=usage.cached_tokens if usage else 0,
            completion_tokens=self.tokens(),
            reasoning_tokens=usage.reasoning_tokens if usage else 0,
        )

    def _first_token_s(self, usage: Usage | None) -> float | None:
        """From its arrival to its first token; None where it had none, or did not finish."""
        if usage is None or self.running_s is None or not usage.completion_tokens:
            return None
        return self.running_s - self.line.started_s + usage.prefill_ms / 1000


def drafts_text(usage: Usage | None) -> str:
    """Of how many guessed tokens how many were right, as ``12 of 20``; "" where none were."""
    drafts = None if usage is None else usage.drafts
    return "" if drafts is None else drafts.told


def story_of(request: Request) -> Story:
    """The story of an inference request."""
    story: Story = request.context[STORY]
    return story
