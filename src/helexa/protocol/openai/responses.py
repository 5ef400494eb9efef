"""A response request: its JSON, and the chat call that it amounts to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, PrivateAttr, model_validator

from helexa.errors import InvalidRequest
from helexa.protocol.fields import Count, Flag, Object, Text, parse, placed, wrong_shape
from helexa.protocol.openai.chat import ChatCall, ChatRequest
from helexa.protocol.openai.sampling import SamplingFields
from helexa.refusals import ChainedConversation, InvalidBody, UnsupportedParameter

_SAMPLING: Final = tuple(SamplingFields.model_fields)
_SAME: Final = ("model", "stream", "parallel_tool_calls", "chat_template_kwargs", *_SAMPLING)
# Where chat has a field that this surface calls otherwise.
_OUR_NAMES: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


def _input(value: Any) -> str | list[Any]:
    """Text, or elements; of those, a message's content must be something that one can say."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_shape("must be a string or a list")
    for at, item in enumerate(value):
        content = item.get("content") if _is_message(item) else None
        if content is not None and not isinstance(content, str | list):
            raise wrong_shape(f"[{at}].content must be a string, a list of parts or null")
    return value


class ResponseRequest(SamplingFields):
    """The body of POST /v1/responses."""

    model: Text
    input: Annotated[Any, AfterValidator(_input)]
    instructions: Text | None = None
    stream: Flag | None = None
    max_output_tokens: Count | None = None
    tools: list[Object] | None = None
    tool_choice: Any = None
    parallel_tool_calls: Flag | None = None
    chat_template_kwargs: Any = None
    reasoning: Object | None = None
    text: Object | None = None
    previous_response_id: Any = None
    background: Flag | None = None
    conversation: Any = None
    prompt: Any = None
    metadata: Any = None
    _chat: ChatRequest = PrivateAttr()

    @model_validator(mode="after")
    def _translate(self) -> ResponseRequest:
        try:
            self._chat = parse(ChatRequest, self._as_chat())
        except InvalidBody as error:
            raise placed(_renamed(error)) from None
        return self

    def call(self) -> ChatCall:
        """Check the values and say what is asked for, in the terms of chat.

        Raises ChainedConversation, UnsupportedParameter, InvalidRequest; ``param`` is this
        surface's name of the field.
        """
        if self.previous_response_id is not None:
            raise ChainedConversation
        for name in ("conversation", "prompt"):
            if getattr(self, name) is not None:
                raise UnsupportedParameter(f"{name} is not supported", param=name)
        if self.background:
            raise UnsupportedParameter("background is not supported", param="background")
        try:
            return self._chat.call(default_thinking=False)
        except InvalidRequest as error:
            raise _renamed(error) from None

    def echo(self) -> dict[str, Any]:
        """What a response may repeat of its request, for clients that insist on it."""
        return {
            "error": None,
            "incomplete_details": None,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata if isinstance(self.metadata, dict) else {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "temperature": self.temperature,
            "tool_choice": "auto" if self.tool_choice is None else self.tool_choice,
            "tools": [{"strict": None, "parameters": None, **tool} for tool in self._own_tools()],
            "top_p": self.top_p,
        }

    def _as_chat(self) -> dict[str, Any]:
        chat = {name: getattr(self, name) for name in _SAME}
        chat["messages"] = self._messages()
        chat["max_tokens"] = self.max_output_tokens
        chat["tools"] = [_chat_tool(tool) for tool in self._own_tools()] or None
        chat["tool_choice"] = _chat_choice(self.tool_choice)
        chat["reasoning_effort"] = (self.reasoning or {}).get("effort")
        chat["response_format"] = _chat_format((self.text or {}).get("format"))
        return chat

    def _messages(self) -> list[dict[str, Any]]:
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return [*first, *chat_messages(self.input)]

    def _own_tools(self) -> list[dict[str, Any]]:
        """The tools that are functions; others are not ours to run."""
        return [
            tool
            for tool in self.tools or ()
            if "function" in tool or (tool.get("type") == "function" and "name" in tool)
        ]


def chat_messages(items: Iterable[Any]) -> list[dict[str, Any]]:
    """Input elements as chat messages: what is unknown is left out.

    Calls join the assistant's message before them, so that an answer sent back is one turn, as the
    model wrote it.
    """
    messages: list[dict[str, Any]] = []
    for item in items:
        if _is_call(item):
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(_chat_call(item))
        elif (message := _message(item)) is not None:
            messages.append(message)
    return messages


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("role"), str):
        return False
    return item.get("type") not in ("function_call", "function_call_output", "reasoning")


def _is_call(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type") != "function_call":
        return False
    return isinstance(item.get("call_id"), str) and isinstance(item.get("name"), str)


def _message(item: Any) -> dict[str, Any] | None:
    if _is_message(item):
        return {"role": item["role"], "content": _chat_content(item.get("content"))}
    if isinstance(item, dict) and item.get("type") == "function_call_output":
        output = item.get("output")
        text = output if isinstance(output, str) else _compact(output)
        return {"role": "tool", "tool_call_id": str(item.get("call_id", "")), "content": text}
    return None


def _chat_call(item: dict[str, Any]) -> dict[str, Any]:
    arguments = item.get("arguments")
    text = arguments if isinstance(arguments, str) else _compact(arguments or {})
    function = {"name": item["name"], "arguments": text}
    return {"id": item["call_id"], "type": "function", "function": function}


def _chat_content(content: str | list[Any] | None) -> str | list[dict[str, Any]]:
    """Text parts joined; where there are images, a list of chat's own parts."""
    if content is None or isinstance(content, str):
        return content or ""
    found = [part for part in map(_chat_part, content) if part is not None]
    if any(part["type"] == "image_url" for part in found):
        return found
    return "\n\n".join(part["text"] for part in found)


def _chat_part(part: Any) -> dict[str, Any] | None:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
    return None


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" in tool:
        return tool
    kept = ("name", "description", "parameters")
    function = {name: tool[name] for name in kept if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _chat_choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
    return choice


def _chat_format(wanted: Any) -> Any:
    """Chat keeps a schema and its name in an object of their own; here they lie open."""
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return wanted
    if "json_schema" in wanted:
        return wanted
    return {
        "type": "json_schema",
        "json_schema": {name: wanted[name] for name in wanted if name != "type"},
    }


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _renamed(error: InvalidRequest) -> InvalidRequest:
    """The same error with the name that the client used."""
    theirs = error.param or ""
    field = theirs.partition("[")[0].partition(".")[0]
    if field not in _OUR_NAMES:
        return error
    # Below a translated field the places are other ones: the field itself is named.
    error.param = _OUR_NAMES[field]
    error.message = error.message.replace(theirs, error.param, 1)
    error.args = (f"{error.message}; {error.hint}" if error.hint else error.message,)
    return error
