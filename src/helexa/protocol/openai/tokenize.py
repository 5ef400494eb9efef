"""Text to token ids and back: requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator

from helexa.protocol.fields import Body, Count, Flag, Text, wrong_shape
from helexa.protocol.openai.chat import template_kwargs
from helexa.protocol.openai.messages import ChatMessage, Tool, plain_messages, plain_tools
from helexa.protocol.openai.sampling import bad_value


class TokenizeRequest(Body):
    """The body of POST /tokenize: a ``prompt``, or ``messages`` as a chat request has them."""

    model: Text
    prompt: Text | None = None
    add_special_tokens: Flag = True
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    reasoning_effort: Any = None
    chat_template_kwargs: Any = None
    add_generation_prompt: Flag = True
    return_token_strs: Flag = False

    @model_validator(mode="after")
    def _has_something(self) -> TokenizeRequest:
        if self.prompt is None and self.messages is None:
            raise wrong_shape("must have a prompt or messages")
        return self

    def chat(self) -> list[dict[str, Any]] | None:
        """The messages to render, None where ``prompt`` is meant. Raises InvalidRequest."""
        if self.messages is None:
            return None
        if self.prompt is not None:
            raise bad_value("prompt", "and messages exclude each other")
        if not self.messages:
            raise bad_value("messages", "is empty", hint="send at least one message")
        return plain_messages(self.messages)

    def offered(self) -> list[dict[str, Any]] | None:
        """The tools that chat would show the model."""
        tools = plain_tools(self.tools)
        return None if self.tool_choice == "none" else tools

    def template_kwargs(self, *, include_thinking: bool = False) -> dict[str, Any]:
        """The template's variables as chat would set them."""
        effort = self.reasoning_effort if isinstance(self.reasoning_effort, str) else None
        found = template_kwargs(self.chat_template_kwargs, effort, include_thinking)
        return found if self.add_generation_prompt else {**found, "add_generation_prompt": False}


class DetokenizeRequest(Body):
    """The body of POST /detokenize."""

    model: Text
    tokens: list[Count]


def tokenized(
    tokens: Sequence[int], max_model_len: int, token_strs: Sequence[str] | None = None
) -> dict[str, Any]:
    """The answer to a tokenize request; ``max_model_len`` is the model's context in tokens."""
    answer = {"count": len(tokens), "tokens": list(tokens), "max_model_len": max_model_len}
    return answer if token_strs is None else {**answer, "token_strs": list(token_strs)}


def detokenized(text: str) -> dict[str, Any]:
    """The answer to a detokenize request."""
    return {"prompt": text}
