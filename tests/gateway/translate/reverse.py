"""The other direction: a chat request as a messages request, a message as a chat completion.

Written from what the two dialects mean, not from the translation, so that going there and back says
whether anything was lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

OWN = ("messages", "stop", "tools", "tool_choice", "parallel_tool_calls", "stream_options")
CHOICES = {"auto": "auto", "required": "any", "none": "none"}
REASONS = {
    "end_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "stop_sequence": "stop",
}


def anthropic_request(chat: dict[str, Any]) -> dict[str, Any]:
    """The request that an Anthropic client would have sent for this chat request."""
    body = {key: value for key, value in chat.items() if key not in OWN}
    messages = list(chat["messages"])
    if messages and messages[0]["role"] == "system":
        body["system"] = messages.pop(0)["content"]
    body["messages"] = list(_messages(messages))
    if "stop" in chat:
        body["stop_sequences"] = chat["stop"]
    if "tools" in chat:
        body["tools"] = [_tool(tool["function"]) for tool in chat["tools"]]
    if "tool_choice" in chat:
        body["tool_choice"] = _choice(chat["tool_choice"])
        if chat.get("parallel_tool_calls") is False:
            body["tool_choice"]["disable_parallel_tool_use"] = True
    kwargs = dict(body.pop("chat_template_kwargs", {}))
    if "enable_thinking" in kwargs:
        thinks = kwargs.pop("enable_thinking")
        body["thinking"] = {"type": "enabled" if thinks else "disabled"}
    return {**body, "chat_template_kwargs": kwargs} if kwargs else body


def _messages(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A user's message takes up the results of tools that stand before it, if it says anything."""
    results: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            found = {"tool_use_id": message["tool_call_id"], "content": message["content"]}
            results.append({"type": "tool_result", **found})
            continue
        if results and (message["role"] != "user" or not message["content"]):
            yield {"role": "user", "content": results}
            results = []
        yield {"role": message["role"], "content": _content(message, results)}
        results = []
    if results:
        yield {"role": "user", "content": results}


def _content(message: dict[str, Any], results: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    said, calls = message["content"], message.get("tool_calls", [])
    thought = message.get("reasoning_content")
    if isinstance(said, str) and not (results or calls or thought):
        return said
    blocks = list(results)
    if thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if isinstance(said, list):
        blocks += [_block(part) for part in said]
    elif said:
        blocks.append({"type": "text", "text": said})
    for call in calls:
        function = call["function"]
        found = {"id": call["id"], "name": function["name"], "input": function["arguments"]}
        blocks.append({"type": "tool_use", **found})
    return blocks


def _block(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return part
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    found = {key: function[key] for key in ("name", "description") if key in function}
    return {**found, "input_schema": function["parameters"]}


def _choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str):
        return {"type": CHOICES[choice]}
    return {"type": "tool", "name": choice["function"]["name"]}


def chat_completion(message: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that says the same as a message; arguments are text, as OpenAI's are."""
    told: dict[str, Any] = {"role": "assistant", "content": None}
    calls = []
    for block in message["content"]:
        if block["type"] == "thinking":
            told["reasoning_content"] = block["thinking"]
        elif block["type"] == "text":
            told["content"] = block["text"]
        else:
            function = {"name": block["name"], "arguments": json.dumps(block["input"])}
            calls.append({"id": block["id"], "type": "function", "function": function})
    if calls:
        told["tool_calls"] = calls
    choice = {"index": 0, "message": told, "finish_reason": REASONS[message["stop_reason"]]}
    if message["stop_sequence"] is not None:
        choice["stop_reason"] = message["stop_sequence"]
    return {
        "id": message["id"].removeprefix("msg_"),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": message["model"],
        "choices": [choice],
        "usage": _usage(message["usage"]),
    }


def _usage(usage: dict[str, int]) -> dict[str, Any]:
    cached = usage.get("cache_read_input_tokens")
    found: dict[str, Any] = {
        "prompt_tokens": usage["input_tokens"] + (cached or 0),
        "completion_tokens": usage["output_tokens"],
    }
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    return found
