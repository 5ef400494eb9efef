"""A chat request: its JSON, and the call that it asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator

from helexa.errors import InvalidRequest
from helexa.protocol.fields import Count, Flag, Object, Text, wrong_shape
from helexa.protocol.openai.messages import (
    ChatMessage,
    Tool,
    plain_messages,
    plain_tools,
    tool_names,
)
from helexa.protocol.openai.sampling import SamplingFields, bad_value
from helexa.refusals import UnsupportedParameter

DEFAULT_MAX_TOKENS: Final = 8192
MAX_TOP_LOGPROBS: Final = 20
REFUSED: Final = ("functions", "function_call", "audio", "web_search_options")
INCLUDE_THINKING: Final = "x-include-thinking"
"""The header that turns thinking on, and shows it inside the content."""

ToolChoice = Literal["auto", "none", "required", "named"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """What a chat request, or a response request in its terms, asks of a model.

    ``sampling`` are keywords of the engine's `SamplingParams`; ``tools`` are those the model is
    shown (None: none), ``tool_name`` the one it must call if ``tool_choice`` is ``named``.
    ``include_thinking`` shows reasoning within the content.
    """

    model: str
    messages: list[dict[str, Any]]
    sampling: dict[str, Any]
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice = "auto"
    tool_name: str | None = None
    parallel_tool_calls: bool = True
    response_format: dict[str, Any] | None = None
    stream: bool = False
    include_thinking: bool = False

    @property
    def logprobs(self) -> bool:
        """Whether log-probabilities are asked for."""
        return "logprobs" in self.sampling


def _tool_choice(value: Any) -> Any:
    """A word, or an object with the name of a function where it is one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise wrong_shape("must be a string or an object with a type")
    if value["type"] == "function":
        function = value.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong_shape("must have a function with a name")
    return value


def _response_format(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise wrong_shape("must be an object with a type")
    if value["type"] == "json_schema":
        inner = value.get("json_schema")
        if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict | bool):
            raise wrong_shape("must have a json_schema with a schema")
    return value


ResponseFormat = Annotated[Any, AfterValidator(_response_format)]


class AnswerFields(SamplingFields):
    """What chat and plain completions both take."""

    model: Text
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    best_of: Count | None = None
    stream: Flag | None = None
    stream_options: Object | None = None
    response_format: ResponseFormat | None = None

    def answer_sampling(self, default_max_tokens: int) -> dict[str, Any]:
        """The sampling keywords with the length; refuses more than one answer."""
        for name in ("n", "best_of"):
            count = getattr(self, name)
            if count == 0:
                raise bad_value(name, "must be at least 1")
            if count is not None and count > 1:
                raise UnsupportedParameter(f"{name} above 1 is not supported", param=name)
        asked = (self.max_completion_tokens, self.max_tokens, default_max_tokens)
        length = next(tokens for tokens in asked if tokens is not None)
        return {"max_tokens": length, **self.sampling()}

    def checked_format(self) -> dict[str, Any] | None:
        """The output format, None for plain text; UnsupportedParameter for an unknown type."""
        wanted: dict[str, Any] | None = self.response_format
        if wanted is None or wanted["type"] == "text":
            return None
        if wanted["type"] not in ("json_object", "json_schema"):
            raise UnsupportedParameter(
                f"response_format of type {wanted['type']!r:.40} is not supported",
                param="response_format",
                hint="use text, json_object or json_schema",
            )
        return wanted


class ChatRequest(AnswerFields):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage]
    logprobs: Flag | None = None
    top_logprobs: Count | None = None
    tools: list[Tool] | None = None
    tool_choice: Annotated[Any, AfterValidator(_tool_choice)] | None = None
    parallel_tool_calls: Flag | None = None
    chat_template_kwargs: Any = None
    reasoning_effort: Text | None = None
    modalities: list[Text] | None = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    web_search_options: Any = None

    def call(self, *, include_thinking: bool = False, default_thinking: bool = True) -> ChatCall:
        """Check the values and say what is asked for.

        ``include_thinking`` is what the header says. Without ``default_thinking`` the template
        decides where the client says nothing. Raises InvalidRequest, UnsupportedParameter.
        """
        self._refuse()
        if not self.messages:
            raise bad_value("messages", "is empty", hint="send at least one message")
        tools = plain_tools(self.tools)
        choice, name = self._choice(tool_names(tools))
        return ChatCall(
            model=self.model,
            messages=plain_messages(self.messages),
            sampling=self.answer_sampling(DEFAULT_MAX_TOKENS) | self._logprobs(),
            template_kwargs=template_kwargs(
                self.chat_template_kwargs,
                self.reasoning_effort,
                include_thinking if default_thinking else None,
            ),
            tools=None if choice == "none" else tools,
            tool_choice=choice,
            tool_name=name,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            response_format=self.checked_format(),
            stream=bool(self.stream),
            include_thinking=include_thinking,
        )

    def _refuse(self) -> None:
        for name in REFUSED:
            if getattr(self, name) is not None:
                raise UnsupportedParameter(f"{name} is not supported", param=name)
        if self.modalities not in (None, ["text"]):
            raise UnsupportedParameter("only the modality text is supported", param="modalities")

    def _logprobs(self) -> dict[str, int]:
        top = self.top_logprobs or 0
        if top > MAX_TOP_LOGPROBS:
            raise bad_value("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}")
        return {"logprobs": top} if self.logprobs else {}

    def _choice(self, names: set[str]) -> tuple[ToolChoice, str | None]:
        asked: Any = self.tool_choice
        match asked:
            case None | "auto":
                return "auto", None
            case "none":
                return "none", None
            case "required":
                if not names:
                    raise bad_value("tool_choice", "is required, but there are no tools")
                return "required", None
            case {"type": "function", "function": {"name": str(name)}}:
                if name not in names:
                    raise bad_value("tool_choice", "names a function that is not among the tools")
                return "named", name
        raise _bad_choice()


def template_kwargs(given: Any, effort: str | None, thinking: bool | None) -> dict[str, Any]:
    """What a request adds to the template's variables: the effort, and over it its own kwargs.

    ``enable_thinking`` is the client's own if it gave one; else what the effort means; else
    ``thinking``, where None leaves it to the template. Kwargs that are no object count as none.
    """
    own = dict(given) if isinstance(given, dict) else {}
    if own.get("enable_thinking") is None:
        own.pop("enable_thinking", None)
        wanted = thinking if effort is None else effort != "none"
        if wanted is not None:
            own["enable_thinking"] = wanted
    return own if effort is None else {"reasoning_effort": effort, **own}


def wants_thinking(header: str | None) -> bool:
    """What the header x-include-thinking says; absent is no."""
    return (header or "").strip().lower() in ("1", "true", "yes")


def _bad_choice() -> InvalidRequest:
    return bad_value(
        "tool_choice", "is unknown", hint="use auto, none, required or name a function"
    )
