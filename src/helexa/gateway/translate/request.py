"""A request of the messages API as a chat request.

    translated = translate_request(body)        # raises InvalidAnthropicBody
    route = await resolve(state, translated.model)
    ... translated.encode(route.model)          # the bytes for the neuron

What OpenAI has no words for is dropped, what is unknown goes on as it is: `docs/translation.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from helexa.gateway.refusals import InvalidAnthropicBody
from helexa.gateway.translate.messages import chat_messages
from helexa.gateway.translate.tools import chat_tool_choice, chat_tools, one_call_only
from helexa.gateway.translate.validation import check_body
from helexa.protocol.json_text import to_json

DROPPED: Final = frozenset(
    "metadata service_tier container context_management mcp_servers cache_control".split()
)
SAID_ELSEWHERE: Final = frozenset({"system", "thinking"})
TOO_DEEP: Final = "is nested too deep"
_THINKS: Final = {"enabled": True, "adaptive": True, "disabled": False}


@dataclass(frozen=True, slots=True)
class Translated:
    """A chat request, and what is needed to translate its answer back.

    ``model`` is the client's word for it, also in ``body``. ``thinking``: it asked for reasoning,
    and is shown it.
    """

    body: dict[str, Any]
    model: str
    thinking: bool
    stream: bool

    def encode(self, model: str, *, yielding: bool = False) -> bytes:
        """The body for a neuron, where the model is called ``model``.

        ``yielding``: as `to_json` does. Raises InvalidAnthropicBody for a number that JSON can
        write but not hold, like 1e999, and for what could be read but is nested too deep to be
        written.
        """
        try:
            return to_json({**self.body, "model": model}, yielding=yielding)
        except ValueError as error:
            raise InvalidAnthropicBody("body", "has a number that is too large") from error
        except RecursionError as error:
            raise InvalidAnthropicBody("body", TOO_DEEP) from error


def translate_request(body: Any) -> Translated:
    """The chat request for a body of `/v1/messages`. Raises InvalidAnthropicBody."""
    return _translated(check_body(body))


def translate_count(body: Any) -> Translated:
    """The request to tokenize for a body of `/v1/messages/count_tokens`, which needs no length.

    Raises InvalidAnthropicBody.
    """
    translated = _translated(check_body(body, counting=True))
    translated.body["add_generation_prompt"] = True
    return translated


def _translated(body: dict[str, Any]) -> Translated:
    chat: dict[str, Any] = {}
    try:
        for key, value in body.items():
            if key not in DROPPED and key not in SAID_ELSEWHERE:
                _carry(key, value, body, chat)
    except RecursionError as error:
        raise InvalidAnthropicBody("body", TOO_DEEP) from error
    if one_call_only(body.get("tool_choice")):
        chat["parallel_tool_calls"] = False
    _set_thinking(body.get("thinking"), chat)
    stream = body.get("stream") is True
    if stream:
        given = chat.get("stream_options")
        own = given if isinstance(given, dict) else {}
        chat["stream_options"] = {**own, "include_usage": True}
    _set_format(body.get("output_config"), chat)
    kwargs = chat.get("chat_template_kwargs")
    thinking = isinstance(kwargs, dict) and kwargs.get("enable_thinking") is True
    return Translated(chat, body["model"], thinking, stream)


def _carry(key: str, value: Any, body: dict[str, Any], chat: dict[str, Any]) -> None:
    """Say one key of the body in the chat request, where it stood."""
    if key == "messages":
        chat[key] = chat_messages(body.get("system"), value)
    elif key == "stop_sequences":
        if value is not None:
            chat["stop"] = value
    elif key == "stop" and body.get("stop_sequences") is not None:
        return  # Anthropic's own word for it counts
    elif key == "tools" and isinstance(value, list):
        tools = chat_tools(value)
        if tools or not value:
            chat[key] = tools
    elif key == "tool_choice":
        chat[key] = chat_tool_choice(value)
    else:
        chat[key] = value


def _set_format(asked: Any, chat: dict[str, Any]) -> None:
    """Hold the answer to a schema, unless the client said that in OpenAI's words."""
    wanted = asked.get("format") if isinstance(asked, dict) else None
    if chat.get("response_format") is not None or not isinstance(wanted, dict):
        return
    if wanted.get("type") == "json_schema" and isinstance(wanted.get("schema"), dict | bool):
        schema = {"name": "answer", "schema": wanted["schema"]}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}


def _set_thinking(asked: Any, chat: dict[str, Any]) -> None:
    """Turn reasoning on or off through the chat template, unless the client did that itself."""
    kind = asked.get("type") if isinstance(asked, dict) else None
    wanted = _THINKS.get(kind) if isinstance(kind, str) else None
    given = chat.get("chat_template_kwargs")
    own = {} if given is None else given
    if wanted is not None and isinstance(own, dict) and own.get("enable_thinking") is None:
        chat["chat_template_kwargs"] = {**own, "enable_thinking": wanted}
