"""A plain completion request: its JSON, and the call that it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from helexa.protocol.fields import Count, Flag, Text, whole_number, wrong_shape
from helexa.protocol.openai.chat import AnswerFields
from helexa.protocol.openai.sampling import bad_value
from helexa.refusals import UnsupportedParameter

DEFAULT_MAX_TOKENS: Final = 16
MAX_LOGPROBS: Final = 5

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """What a completion request asks of a model; ``prompt`` is text or token ids."""

    model: str
    prompt: Prompt
    sampling: dict[str, Any]
    response_format: dict[str, Any] | None = None
    stream: bool = False

    @property
    def logprobs(self) -> bool:
        """Whether log-probabilities are asked for."""
        return "logprobs" in self.sampling


def _prompts(value: Any) -> list[Prompt]:
    """One or more prompts, however they were written; a list of numbers is one prompt."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong_shape("must be a string, token ids, or a list of one of these")
    if not any(isinstance(item, str | list) for item in value):
        return [_token_ids(value)]
    return [item if isinstance(item, str) else _token_ids(item) for item in value]


def _token_ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise wrong_shape("must not mix texts and token ids")
    return tuple(whole_number(item) for item in value)


class CompletionRequest(AnswerFields):
    """The body of POST /v1/completions."""

    prompt: Annotated[Any, AfterValidator(_prompts)]
    logprobs: Count | None = None
    echo: Flag | None = None
    suffix: Text | None = None

    def call(self) -> CompletionCall:
        """Check the values and say what is asked for. Raises InvalidRequest."""
        prompts: list[Prompt] = self.prompt
        if len(prompts) > 1:
            raise UnsupportedParameter(
                f"{len(prompts)} prompts in one request are not supported",
                param="prompt",
                hint="send one request for each",
            )
        if self.echo:
            raise UnsupportedParameter("echo is not supported", param="echo")
        if self.suffix:
            raise UnsupportedParameter("suffix is not supported", param="suffix")
        sampling = self.answer_sampling(DEFAULT_MAX_TOKENS)
        if self.logprobs is not None:
            if self.logprobs > MAX_LOGPROBS:
                raise bad_value("logprobs", f"must be 0 to {MAX_LOGPROBS}")
            sampling["logprobs"] = self.logprobs
        return CompletionCall(
            model=self.model,
            prompt=prompts[0],
            sampling=sampling,
            response_format=self.checked_format(),
            stream=bool(self.stream),
        )
