"""`LLM`: a language model in one object.

llm = helexa.LLM("tiny")
print(llm.chat("What is 2 + 3?").text)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, overload

from helexa.answers import Generation
from helexa.chat_options import ChatOptions, Message
from helexa.engine.params import SamplingParams
from helexa.handle import Handle, answers_bar, merged_params, single
from helexa.loaded import (
    Conversation,
    Job,
    Prompt,
    one_or_more_chats,
    one_or_more_prompts,
)
from helexa.streams import EventStream, run_jobs


class LLM(Handle):
    """A language model, for scripts, notebooks and threads; see the constructor's options below.

    The constructor loads the model. Safe to share between threads; ``close()``, or leaving a
    ``with`` block, ends what runs and frees the memory.

    Raises LoadError if the model cannot be found, read or built, InvalidRequest for a wrong
    option, CapacityError if its memory does not fit.
    """

    def _constructed(self) -> None:
        self._open()

    @overload
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **overrides: Any,
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **overrides: Any,
    ) -> list[Generation]: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **overrides: Any,
    ) -> Generation | list[Generation]:
        """Continue a text (or token ids), or every one of a list, batched by the engine.

        ``overrides`` are fields of SamplingParams. ``progress`` shows a bar over a list (None: on
        a terminal). Raises InvalidRequest, PromptTooLong, CapacityError, NumericalError; those
        about one prompt of a list name its place.
        """
        merged = merged_params(params, overrides)
        prompts, batch = one_or_more_prompts(prompt)
        answers = self._run(self._text_jobs(prompts, merged, batch=batch), progress)
        return answers if batch else answers[0]

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> EventStream:
        """Continue a text (or token ids), event by event.

        ``for event in llm.stream(...)`` aborts it when the loop is left. A stream that has a name
        runs on until it is closed: write ``with llm.stream(...) as events:``, or close it.
        """
        return EventStream(
            self._model, single(self._text_job(prompt, merged_params(params, overrides)))
        )

    @overload
    def chat(
        self, messages: Conversation, params: SamplingParams | None = None, **options: Any
    ) -> Generation: ...
    @overload
    def chat(
        self, messages: Sequence[Conversation], params: SamplingParams | None = None, **options: Any
    ) -> list[Generation]: ...
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        tool_choice: str | Message = "auto",
        parallel_tool_calls: bool = True,
        response_format: Message | None = None,
        enable_thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        progress: bool | None = None,
        **overrides: Any,
    ) -> Generation | list[Generation]:
        """Answer a conversation (a string is one user message), or every one of a list, batched.

        ``tools`` are in OpenAI's form; ``tool_choice`` is ``auto``, ``none``, ``required`` or a
        tool's name; ``parallel_tool_calls=False`` ends the answer after one call;
        ``response_format`` makes it JSON, of a schema if one is given. ``enable_thinking`` and
        ``template_kwargs`` go to the chat template; ``overrides`` are fields of SamplingParams.
        Reasoning and tool calls come apart from the text. Raises as `generate`, TemplateError if
        the template cannot express it, UnsupportedGrammar for a form that cannot be enforced.
        """
        chat = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            response_format=response_format,
            enable_thinking=enable_thinking,
            template_kwargs=template_kwargs,
        )
        merged = merged_params(params, overrides)
        chats, batch = one_or_more_chats(messages)
        answers = self._run(self._chat_jobs(chats, merged, chat, batch=batch), progress)
        return answers if batch else answers[0]

    def stream_chat(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        tool_choice: str | Message = "auto",
        parallel_tool_calls: bool = True,
        response_format: Message | None = None,
        enable_thinking: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> EventStream:
        """`chat`, event by event; it ends early as `stream` does."""
        chat = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            response_format=response_format,
            enable_thinking=enable_thinking,
            template_kwargs=template_kwargs,
        )
        job = self._chat_job(messages, merged_params(params, overrides), chat)
        return EventStream(self._model, single(job))

    def close(self) -> None:
        """End what runs with EngineClosed and free the model; a second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self, jobs: list[Job], progress: bool | None) -> list[Generation]:
        with answers_bar(jobs, progress) as advance:
            return run_jobs(self._model, jobs, advance)
