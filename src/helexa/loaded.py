"""A model that is ready to answer: tokenizer, template, a running host, and what is asked of them.

``LLM`` and ``AsyncLLM`` differ only in how they wait; everything else is here.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from helexa.answers import Answer, name_place
from helexa.engine.host import Deliver, Host
from helexa.engine.outputs import EngineStatus, Request
from helexa.engine.params import SamplingParams
from helexa.errors import HelexaError, InvalidRequest, UnsupportedGrammar, VisionUnsupported
from helexa.text.chat_template import ChatTemplate
from helexa.text.images import image_parts
from helexa.text.parsing.markers import Markers
from helexa.text.parsing.parser import OutputParser
from helexa.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
Conversation = str | Sequence[Message]
Prompt = str | Sequence[int]

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is.

    ``vocab_size`` is the model's: token ids are below it, though not every one need have a text.
    ``kv_bytes_per_token`` is per device, ``max_context`` in tokens.
    """

    id: str
    model_type: str
    vocab_size: int
    max_context: int
    capabilities: tuple[str, ...]
    eos_token_ids: tuple[int, ...]
    reasoning_markers: tuple[str, str] | None
    tool_markers: tuple[str, str] | None
    kv_bytes_per_token: int
    kv_capacity_tokens: int
    parameters: int
    weight_mb: float
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt, ready to run: the tokens, the params, and what will read the output.

    ``place`` is how errors call it where it is one of several: ``prompt[3]``.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    new_parser: Callable[[], OutputParser]
    place: str | None = None

    def requests(self) -> list[Request]:
        """The ``n`` requests that answer it."""
        return [Request(self.prompt_ids, self.params.choice(i)) for i in range(self.params.n)]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a chat request may say beside its messages and sampling parameters."""

    tools: Sequence[Message] | None = None
    tool_choice: str = "auto"
    response_format: Message | None = None
    enable_thinking: bool | None = None
    template_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.enable_thinking is not None and not isinstance(self.enable_thinking, bool):
            raise InvalidRequest(
                f"enable_thinking must be True or False, not {self.enable_thinking!r:.80}",
                param="enable_thinking",
                hint="leave it out to let the model's template decide",
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ChatOptions:
        """From keyword arguments; TypeError for one that does not shape a prompt."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise TypeError(f"{name!r} does not shape the prompt; these do: {', '.join(known)}")
        return cls(**given)

    @property
    def offered(self) -> Sequence[Message] | None:
        """The tools that the model is shown."""
        return None if self.tool_choice == "none" else self.tools


class LoadedModel:
    """A model with its text layer, running on a host, which ends when nobody has this any more."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        markers: Markers,
        host: Host,
        info: ModelInfo,
    ) -> None:
        self.tokenizer = tokenizer
        self.info = info
        self._template = template
        self._markers = markers
        self._host = host
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
        return Answer(len(job.prompt_ids), job.new_parser(), self.tokenizer, job.place)

    def text_job(self, prompt: Prompt, params: SamplingParams) -> Job:
        """A plain prompt: text (encoded with special tokens) or token ids, output not parsed."""
        ids = (
            self.tokenizer.encode(prompt, add_special_tokens=True)
            if isinstance(prompt, str)
            else prompt
        )
        return self._job(ids, params, tools=None, markers=None)

    def chat_job(self, messages: Conversation, params: SamplingParams, options: ChatOptions) -> Job:
        """A conversation, rendered by the model's template."""
        _require_built(options)
        ids = self.tokenizer.encode(self.render(messages, options), add_special_tokens=False)
        markers = self._markers
        if options.tool_choice == "none":
            markers = replace(markers, tool=None)
        return self._job(ids, params, tools=options.offered, markers=markers)

    def render(self, messages: Conversation, options: ChatOptions) -> str:
        """The text that a conversation becomes."""
        checked = as_messages(messages)
        if next(image_parts(checked), None) is not None:
            raise VisionUnsupported(
                f"{self.info.id} reads text only, and a message holds an image",
                param="messages",
                hint="leave images out, or load a model with a vision tower",
            )
        kwargs: dict[str, Any] = {"tools": options.offered, **_variables(options)}
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


def _variables(options: ChatOptions) -> Mapping[str, Any]:
    """What the caller gives the template beside the conversation."""
    given = options.template_kwargs
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidRequest(
            "template_kwargs must be a mapping of names to values",
            param="template_kwargs",
            hint='for example {"enable_thinking": False}',
        )
    return given


def _require_built(options: ChatOptions) -> None:
    """Refuse the constrained output that this version cannot promise."""
    if options.tool_choice not in ("auto", "none"):
        raise UnsupportedGrammar(
            f"tool_choice {options.tool_choice!r} needs constrained output, which is not built",
            param="tool_choice",
            hint="use 'auto' or 'none'",
        )
    if options.response_format not in (None, {"type": "text"}):
        raise UnsupportedGrammar(
            "response_format needs constrained output, which is not built",
            param="response_format",
            hint="ask for the format in the prompt",
        )
