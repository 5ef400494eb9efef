"""A model that is ready to answer: tokenizer, template, a running host, and what is asked of them.

``LLM`` and ``AsyncLLM`` differ only in how they wait; everything else is here.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from helexa.answers import Answer, name_place
from helexa.chat_options import ChatOptions, Message
from helexa.engine.host import Deliver, Host
from helexa.engine.masks import GrammarSpec
from helexa.engine.outputs import EngineStatus, Request
from helexa.engine.params import SamplingParams
from helexa.errors import HelexaError, InvalidRequest, VisionUnsupported
from helexa.text.chat_template import ChatTemplate
from helexa.text.grammar.factory import GrammarFactory
from helexa.text.grammar.request import CallForm
from helexa.text.images import image_parts
from helexa.text.parsing.markers import Markers
from helexa.text.parsing.parser import OutputParser
from helexa.text.tokenizer import Tokenizer

Conversation = str | Sequence[Message]
Prompt = str | Sequence[int]

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is.

    ``vocab_size`` is the model's: token ids are below it, though not every one need have a text.
    ``kv_bytes_per_token`` is per device. ``longest_tokens`` is what the model was made for,
    ``max_context`` what can be run of it here, in tokens. Of the ``pool_mb`` MiB that its cache has
    claimed, running requests are promised ``kv_budget_mb``.
    """

    id: str
    model_type: str
    vocab_size: int
    longest_tokens: int
    max_context: int
    capabilities: tuple[str, ...]
    eos_token_ids: tuple[int, ...]
    reasoning_markers: tuple[str, str] | None
    tool_markers: tuple[str, str] | None
    kv_bytes_per_token: int
    kv_capacity_tokens: int
    kv_budget_mb: int
    pool_mb: float
    parameters: int
    weight_mb: float
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt, ready to run: the tokens, the params, and what will read the output.

    ``place`` is how errors call it where it is one of several: ``prompt[3]``. ``grammar`` is what
    the answer must fit; with ``one_call`` it ends at its first tool call.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    new_parser: Callable[[], OutputParser]
    place: str | None = None
    grammar: GrammarSpec | None = None
    one_call: bool = False

    def requests(self) -> list[Request]:
        """The ``n`` requests that answer it."""
        return [
            Request(self.prompt_ids, self.params.choice(i), grammar=self.grammar)
            for i in range(self.params.n)
        ]


class LoadedModel:
    """A model with its text layer, running on a host, which ends when nobody has this any more."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        markers: Markers,
        host: Host,
        info: ModelInfo,
        grammars: GrammarFactory,
    ) -> None:
        self.tokenizer = tokenizer
        self.info = info
        self._template = template
        self._markers = markers
        self._host = host
        self._grammars = grammars
        weakref.finalize(self, host.close)

    def status(self) -> EngineStatus:
        return self._host.status()

    def close(self, timeout_s: float = 5.0) -> bool:
        return self._host.close(timeout_s)

    def submit(self, request: Request, deliver: Deliver) -> int:
        return self._host.submit(request, deliver)

    def abort(self, request_id: int, *, completed: bool = False) -> None:
        self._host.abort(request_id, completed=completed)

    def answer(self, job: Job) -> Answer:
        return Answer(
            len(job.prompt_ids), job.new_parser(), self.tokenizer, job.place, one_call=job.one_call
        )

    def text_job(
        self, prompt: Prompt, params: SamplingParams, response_format: Message | None = None
    ) -> Job:
        """A plain prompt: text (encoded with special tokens) or token ids, output not parsed.

        A ``response_format`` constrains all of it, as nothing of it counts as reasoning.
        """
        ids = (
            self.tokenizer.encode(prompt, add_special_tokens=True)
            if isinstance(prompt, str)
            else prompt
        )
        options = ChatOptions(response_format=response_format, enable_thinking=False)
        grammar = options.grammar(None)
        if grammar is not None:
            self._grammars.prepare(grammar)
        return replace(self._job(ids, params, tools=None, markers=None), grammar=grammar)

    def chat_job(self, messages: Conversation, params: SamplingParams, options: ChatOptions) -> Job:
        """A conversation, rendered by the model's template.

        A grammar is compiled here, on the caller's thread, so that the engine need not wait for it.
        """
        grammar = options.grammar(self._call_form())
        ids = self.tokenizer.encode(self.render(messages, options), add_special_tokens=False)
        if grammar is not None:
            self._grammars.prepare(grammar)
        markers = self._markers
        if options.tool_choice == "none":
            markers = replace(markers, tool=None)
        job = self._job(ids, params, tools=options.offered, markers=markers)
        return replace(job, grammar=grammar, one_call=not options.parallel_tool_calls)

    def _call_form(self) -> CallForm | None:
        """How the model writes tool calls; None if its vocabulary has no tokens to mark them."""
        if self._markers.tool is None:
            return None
        return "tags" if self._template.shows_tags else "json"

    def render(self, messages: Conversation, options: ChatOptions) -> str:
        """The text that a conversation becomes."""
        checked = as_messages(messages)
        if next(image_parts(checked), None) is not None:
            raise VisionUnsupported(
                f"{self.info.id} reads text only, and a message holds an image",
                param="messages",
                hint="leave images out, or load a model with a vision tower",
            )
        kwargs: dict[str, Any] = {"tools": options.offered, **options.variables()}
        if options.enable_thinking is not None:
            kwargs["enable_thinking"] = options.enable_thinking
        return self._template.render(checked, **kwargs)

    def _job(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        *,
        tools: Sequence[Message] | None,
        markers: Markers | None,
    ) -> Job:
        """``markers`` None leaves reasoning and calls in the text."""
        prompt_ids = tuple(ids)

        def new_parser() -> OutputParser:
            return OutputParser(
                self.tokenizer,
                markers or self._markers,
                tools=tools,
                stop=tuple(params.stop),
                min_tokens=params.min_tokens,
                prompt_ids=prompt_ids,
                parse=markers is not None,
            )

        return Job(prompt_ids, params, new_parser)


def as_messages(conversation: object) -> list[Message]:
    """A conversation as a list of messages; a plain string is one user message.

    Raises InvalidRequest for anything else, naming the message that is wrong.
    """
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    if isinstance(conversation, Mapping) or not isinstance(conversation, Sequence):
        raise InvalidRequest(
            f"messages must be a list of messages, not {type(conversation).__name__}",
            param="messages",
            hint='for example [{"role": "user", "content": "hi"}], or just "hi"',
        )
    if not conversation:
        raise InvalidRequest(
            "messages is empty", param="messages", hint="send at least one message"
        )
    for index, message in enumerate(conversation):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages[{index}] must be a mapping with a string 'role', not {message!r:.80}",
                param=f"messages[{index}]",
                hint='for example {"role": "user", "content": "hi"}',
            )
    return list(conversation)


def check_prompt(prompt: object) -> Prompt:
    """A prompt for plain generation: text, or a list of token ids; InvalidRequest for others.

    Whatever Python takes for an index may be an id, such as numpy's integers.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequest(
                "the prompt is empty", param="prompt", code="empty_prompt", hint="send some text"
            )
        return prompt
    if (ids := token_ids(prompt)) is not None:
        return ids
    if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping):
        hint = "these look like chat messages: call chat() instead"
    else:
        hint = "pass a string, a list of token ids, or a list of either for a batch"
    raise InvalidRequest(
        f"a prompt must be text or token ids, not {type(prompt).__name__}",
        param="prompt",
        hint=hint,
    )


def one_or_more_prompts(prompt: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts that were given, and whether they were given as a list (a list of ids is one)."""
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        items: list[Any] = list(prompt)
        if any(_token_id(item) is None and not isinstance(item, Mapping) for item in items):
            return [
                placed(check_prompt, item, f"prompt[{index}]") for index, item in enumerate(items)
            ], True
    return [check_prompt(prompt)], False


def one_or_more_chats(
    messages: Conversation | Sequence[Conversation],
) -> tuple[list[list[Message]], bool]:
    """The conversations that were given, and whether they were given as a list."""
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        items: list[Any] = list(messages)
        if all(isinstance(item, Sequence) for item in items):
            return [
                placed(as_messages, item, f"messages[{index}]") for index, item in enumerate(items)
            ], True
    return [as_messages(messages)], False


def placed(make: Callable[[Given], Made], given: Given, place: str | None) -> Made:
    """``make(given)``; an error says the ``place`` of what was given, if it is one of several."""
    try:
        return make(given)
    except HelexaError as error:
        name_place(error, place)
        raise


def token_ids(prompt: object) -> list[int] | None:
    """The token ids that a prompt is, None if it is something else."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
        return None
    ids = [_token_id(item) for item in prompt]
    return None if None in ids else [id for id in ids if id is not None]


def _token_id(item: Any) -> int | None:
    try:
        return None if isinstance(item, bool) else operator.index(item)
    except TypeError:
        return None
