"""A whole chat completion as a message; why an answer ended and what it cost, for streams too."""

from __future__ import annotations

import json
import random
from typing import Any, Final

from helexa.http.body import parse_json
from helexa.http.faults import UpstreamMalformed
from helexa.protocol.drafts import DRAFTS, drafts_field
from helexa.protocol.json_text import to_json
from helexa.refusals import MalformedJson

_STOPS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def translate_answer(data: bytes, thinking: bool) -> bytes:
    """The body of a message for the body of a chat completion. Raises UpstreamMalformed."""
    try:
        return to_json(translate_response(json.loads(data), thinking))
    except (ValueError, RecursionError) as error:
        raise UpstreamMalformed(f"the answer is not JSON ({error})") from error


def translate_response(body: Any, thinking: bool) -> dict[str, Any]:
    """The message for a chat completion; ``thinking``: the request asked to see reasoning.

    Raises UpstreamMalformed if there is no `choices[0].message`.
    """
    choice, message = _choice(body)
    content = _content(message, thinking)
    called = content[-1]["type"] == "tool_use"
    reason, sequence = stop_reason(choice.get("finish_reason"), choice.get("stop_reason"), called)
    usage = body.get("usage")
    return {
        "id": message_id(body.get("id")),
        "type": "message",
        "role": "assistant",
        "model": text_or(body.get("model"), ""),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": translate_usage(usage if isinstance(usage, dict) else {}),
    }


def _choice(body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise UpstreamMalformed("the answer has no choices[0].message")
    return choice, message


def _content(message: dict[str, Any], thinking: bool) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if thinking and isinstance(reasoning, str) and reasoning:
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    if text := _text(message.get("content")):
        blocks.append({"type": "text", "text": text})
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        blocks += [_tool_use(call) for call in calls if isinstance(call, dict)]
    return blocks or [{"type": "text", "text": ""}]


def _text(content: Any) -> str:
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return text_or(content, "")


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    given = call.get("function")
    function = given if isinstance(given, dict) else {}
    return {
        "type": "tool_use",
        "id": tool_use_id(call.get("id")),
        "name": text_or(function.get("name"), ""),
        "input": _input(function.get("arguments")),
    }


def _input(arguments: Any) -> dict[str, Any]:
    """What a tool is called with: an object, whatever the model wrote."""
    if isinstance(arguments, dict):
        return arguments
    if arguments is None or arguments == "":
        return {}
    text = arguments_text(arguments)
    try:
        found = parse_json(text.encode("utf-8", "surrogatepass"))
        to_json(found)  # 1e999 can be read, but not written
    except (MalformedJson, ValueError, RecursionError):
        return {"_raw": text}
    return found if isinstance(found, dict) else {"_raw": text}


def arguments_text(arguments: Any) -> str:
    """Arguments as the text that the model wrote, or that says the same.

    Raises UpstreamMalformed if JSON cannot say it.
    """
    if isinstance(arguments, str):
        return arguments
    try:
        return to_json(arguments).decode()
    except (ValueError, RecursionError) as error:
        raise UpstreamMalformed(f"the arguments of a call are not JSON ({error})") from error


def stop_reason(finish: Any, sequence: Any, called: bool) -> tuple[str, str | None]:
    """Why the answer ended, and the stop sequence if it was one.

    ``finish`` is the choice's `finish_reason`, ``sequence`` its `stop_reason`, which some servers
    set to what stopped the model. ``called``: the answer has a call of a tool.
    """
    if isinstance(sequence, str) and sequence:
        return "stop_sequence", sequence
    reason = _STOPS.get(finish, finish) if isinstance(finish, str) and finish else "end_turn"
    return "tool_use" if called and reason == "end_turn" else reason, None


def translate_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """What was read and written, in tokens; Anthropic counts what was cached apart."""
    written = {"output_tokens": count(usage.get("completion_tokens")) or 0}
    return {**input_usage(usage), **written, **drafts(usage)}


def input_usage(usage: dict[str, Any]) -> dict[str, int]:
    """What was read, in tokens."""
    prompt = count(usage.get("prompt_tokens")) or 0
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is None:
        cached = count(usage.get("cached_tokens"))  # where older servers write it
    if cached is None:
        return {"input_tokens": prompt}
    return {
        "input_tokens": max(prompt - cached, 0),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
    }


def drafts(usage: dict[str, Any]) -> dict[str, Any]:
    """How many tokens were guessed ahead, where a neuron tells."""
    told = usage.get(DRAFTS)
    if not isinstance(told, dict):
        return {}
    drafted, accepted = count(told.get("drafted")), count(told.get("accepted"))
    return {} if drafted is None or accepted is None else drafts_field(drafted, accepted)


def count(value: Any) -> int | None:
    """A number of tokens, if it is one."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def message_id(upstream: Any) -> str:
    """An id for the message, made of the upstream's if it has one."""
    return f"msg_{upstream}" if isinstance(upstream, str) and upstream else f"msg_{_hex24()}"


def tool_use_id(upstream: Any) -> str:
    """The upstream's id of a call, or a new one."""
    return upstream if isinstance(upstream, str) and upstream else f"toolu_{_hex24()}"


def text_or(value: Any, default: str) -> str:
    """The value if it is text."""
    return value if isinstance(value, str) else default


def _hex24() -> str:
    return f"{random.getrandbits(96):024x}"
