"""`AsyncLLM`: the same model for event loops.

async with helexa.AsyncLLM("tiny") as llm:
    async for event in llm.chat("hi"):
        print(event.text, end="")
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, Self, TypeVar, overload

import anyio
import anyio.to_thread

from helexa.answers import Generation
from helexa.chat_options import ChatOptions, Message
from helexa.engine.params import SamplingParams
from helexa.errors import InvalidRequest
from helexa.handle import Handle, answers_bar, merged_params, refuse_progress, single
from helexa.loaded import (
    Conversation,
    Job,
    LoadedModel,
    Prompt,
    one_or_more_chats,
    one_or_more_prompts,
)
from helexa.streams import AsyncEventStream, run_jobs_async

Result = TypeVar("Result", Generation, list[Generation])


class AsyncAnswer(Generic[Result]):
    """An answer that has not started: ``await`` it for the whole, ``async for`` it for events.

    It runs once for each time it is awaited or iterated.
    """

    def __init__(
        self,
        model: LoadedModel,
        prepare: Callable[[], list[Job]],
        *,
        batch: bool,
        progress: bool | None = None,
    ) -> None:
        self._model = model
        self._prepare = prepare
        self._batch = batch
        self._progress = progress

    def __getattr__(self, name: str) -> Any:
        if name in Generation.__dataclass_fields__ or name in vars(Generation):
            raise AttributeError(f"this answer has not run, so it has no {name!r}: await it first")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._whole().__await__()

    def __aiter__(self) -> AsyncEventStream:
        if self._batch:
            raise InvalidRequest(
                "a list of prompts cannot be iterated as one stream",
                param="prompt",
                hint="await it for all answers, or stream each prompt in a task of its own",
            )
        return AsyncEventStream(self._model, lambda: single(self._prepare()[0]))

    async def _whole(self) -> Any:
        jobs = await anyio.to_thread.run_sync(self._prepare)
        with answers_bar(jobs, self._progress) as advance:
            answers = await run_jobs_async(self._model, jobs, advance)
        return answers if self._batch else answers[0]


class AsyncLLM(Handle):
    """A language model for event loops (asyncio or trio); takes the same options as `LLM`.

    ``async with AsyncLLM("tiny") as llm`` loads it on entering, in a thread; in a notebook,
    ``llm = await AsyncLLM("tiny").open()`` and later ``await llm.close()``.

    Every method returns an answer that can be awaited (`Generation`) or iterated (events).
    Cancellation, and leaving the loop, abort the request within one step. Raises as `LLM`. Once
    closed it stays closed: make a new one.
    """

    @overload
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **overrides: Any,
    ) -> AsyncAnswer[Generation]: ...
    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **overrides: Any,
    ) -> AsyncAnswer[list[Generation]]: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        **overrides: Any,
    ) -> AsyncAnswer[Any]:
        """Continue a text (or token ids), or every one of a list, batched by the engine.

        Options as `LLM.generate`.
        """
        merged = merged_params(params, overrides)
        prompts, batch = one_or_more_prompts(prompt)

        def prepare() -> list[Job]:
            return self._text_jobs(prompts, merged, batch=batch)

        return AsyncAnswer(self._model, prepare, batch=batch, progress=progress)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> AsyncAnswer[Generation]:
        """The same as `generate` for one prompt; reads better with ``async for``."""
        return self.generate(prompt, merged_params(params, overrides))

    @overload
    def chat(
        self, messages: Conversation, params: SamplingParams | None = None, **options: Any
    ) -> AsyncAnswer[Generation]: ...
    @overload
    def chat(
        self, messages: Sequence[Conversation], params: SamplingParams | None = None, **options: Any
    ) -> AsyncAnswer[list[Generation]]: ...
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
    ) -> AsyncAnswer[Any]:
        """Answer a conversation, or every one of a list; options as `LLM.chat`."""
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

        def prepare() -> list[Job]:
            return self._chat_jobs(chats, merged, chat, batch=batch)

        return AsyncAnswer(self._model, prepare, batch=batch, progress=progress)

    def stream_chat(
        self, messages: Conversation, params: SamplingParams | None = None, **options: Any
    ) -> AsyncAnswer[Generation]:
        """The same as `chat` for one conversation; reads better with ``async for``."""
        refuse_progress(options)
        return self.chat(messages, params, **options)

    async def open(self) -> Self:
        """Load the model, in a thread. Raises EngineClosed after `close`, which is for good."""
        if self._loaded is None or self._closed:
            await anyio.to_thread.run_sync(self._open)
        return self

    async def close(self) -> None:
        """End what runs with EngineClosed and free the model; a second call does nothing."""
        with anyio.CancelScope(shield=True):  # bounded: the host gives up after its timeout
            await anyio.to_thread.run_sync(self._close)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
