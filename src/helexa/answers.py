"""From a core's step outputs to what people read: events as they stream, and whole answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helexa.engine.outputs import CacheReport, DraftCounts, StepOutput, Timing, TokenLogprobs
from helexa.errors import HelexaError, InvalidRequest
from helexa.text.events import (
    Event,
    Finish,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from helexa.text.parsing.parser import OutputParser
    from helexa.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Generation:
    """One whole answer.

    ``text`` is what the model said, ``reasoning`` what it thought before, ``tool_calls`` what it
    wants called. ``finish_reason`` is ``stop``, ``length`` or ``tool_calls``. ``token_ids`` are all
    tokens it produced, markers included. With ``n`` > 1 the other answers are ``alternatives``.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    alternatives: tuple[Generation, ...] = ()

    @property
    def choices(self) -> tuple[Generation, ...]:
        """All ``n`` answers, this one first."""
        return (self, *self.alternatives)

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a chat message, ready to be appended to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message

    def __str__(self) -> str:
        return self.text


class Answer:
    """One request on its way: takes step outputs, gives events, and knows when it is complete.

    Streams and whole answers both come from here, so they cannot differ. Its errors say the
    ``place`` of the prompt among several, such as ``prompt[3]``, if it has one. With ``one_call``
    it is complete after the first tool call.
    """

    def __init__(
        self,
        prompt_tokens: int,
        parser: OutputParser,
        tokenizer: Tokenizer,
        place: str | None = None,
        *,
        one_call: bool = False,
    ) -> None:
        self.done = False
        self.token_ids: list[int] = []
        self._prompt_tokens = prompt_tokens
        self._parser = parser
        self._tokenizer = tokenizer
        self._place = place
        self._one_call = one_call
        self._cache: CacheReport | None = None
        self._timing = Timing(0.0, 0.0, 0.0)
        self._drafts: DraftCounts | None = None

    def push(self, output: StepOutput) -> list[Event]:
        """The events that one step output causes; raises the error that it carries."""
        if output.error is not None:
            self.done = True
            name_place(output.error, self._place)
            raise output.error.with_traceback(None)  # others may have raised the same one
        self._cache = self._cache or output.cache
        self._timing = output.timing or self._timing
        before = len(self.token_ids)
        events = self._parse(output)
        self._drafts = self._counted(output, len(self.token_ids) - before)
        if output.finish_reason is not None or self._stopped:
            self.done = True
            events += self._parser.finish()
            events.append(self._finish(output))
        return events

    def _parse(self, output: StepOutput) -> list[Event]:
        events: list[Event] = []
        logprobs: Sequence[TokenLogprobs | None] = output.logprobs or [None] * len(output.token_ids)
        for token_id, logprob in zip(output.token_ids, logprobs, strict=True):
            self.token_ids.append(token_id)
            named = None if logprob is None else self._named(logprob)
            events += self._parser.push(token_id, named)
            if self._stopped:
                break
        return events

    def _counted(self, output: StepOutput, read: int) -> DraftCounts | None:
        """What became of drafts, if the first ``read`` tokens of an output are in the answer.

        All of them but the last were drafted; behind those may be others, which count for nothing.
        """
        if output.drafts is None:
            return None
        known = self._drafts.accepted if self._drafts is not None else 0
        return DraftCounts(output.drafts.drafted, min(output.drafts.accepted, known + read))

    @property
    def _called(self) -> bool:
        """Whether it has made the one call that it may make."""
        return self._one_call and self._parser.tool_calls_emitted > 0

    @property
    def _stopped(self) -> bool:
        """Whether what was read is the whole answer, though the engine may go on."""
        return self._parser.stopped or self._called

    def _named(self, found: TokenLogprobs) -> TokenLogprob:
        top = tuple(self._token_logprob(token_id, value) for token_id, value in found.top)
        return self._token_logprob(found.token_id, found.logprob, top)

    def _token_logprob(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = self._tokenizer.id_to_bytes(token_id)
        return TokenLogprob(token_id, raw.decode("utf-8", "replace"), raw, logprob, top)

    def _finish(self, last: StepOutput) -> Finish:
        reached = "stop" if self._called else last.finish_reason
        reason = self._parser.finish_reason(reached or "stop")
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self.token_ids),
            reasoning_tokens=self._parser.reasoning_tokens,
            cached_tokens=self._cache.cached_tokens if self._cache else 0,
            prefill_ms=self._timing.prefill_ms,
            decode_ms=self._timing.decode_ms,
            prefill_tokens=self._prompt_tokens,
            cache=self._cache,
            drafts=self._drafts,
        )
        return Finish(reason, usage, self._parser.stop)


def gather(events: Iterable[Event], token_ids: Sequence[int]) -> Generation:
    """Add up a finished stream's events."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    finish: Finish | None = None
    for event in events:
        match event:
            case Text():
                text.append(event.text)
                logprobs.extend(event.logprobs)
            case Reasoning():
                reasoning.append(event.text)
            case ToolCall():
                calls.append(event)
            case Finish():
                finish = event
    assert finish is not None, "a finished stream ends with Finish"
    return Generation(
        text="".join(text),
        reasoning="".join(reasoning),
        tool_calls=tuple(calls),
        finish_reason=finish.reason,
        usage=finish.usage,
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
    )


def name_place(error: HelexaError, place: str | None) -> None:
    """Let an error say which of several prompts it is about; ``place`` None: there is only one.

    What is not one prompt's fault (a parameter they share, the engine's end) stays as it is.
    """
    if place is None or error.fault != "request":
        return
    if isinstance(error, InvalidRequest):
        field, bracket, rest = (error.param or "prompt").partition("[")
        if field not in ("prompt", "messages"):
            return
        error.param = place + bracket + rest
    error.args = (f"{place}: {error}",)
    error.message = f"{place}: {error.message}"
