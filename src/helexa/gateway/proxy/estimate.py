"""How many tokens a request may take, guessed from its text: four bytes to a token.

Bodies are JSON of any shape: a neuron judges them, here nothing is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from helexa.gateway.proxy.advice import advice_for
from helexa.gateway.refusals import OverContext

BYTES_PER_TOKEN = 4
BYTES_PER_MESSAGE = 8
TOKENS_PER_IMAGE = 2304
MOST_IMAGES = 10_000
MOST_TEXTS = 100_000
"""More of them are not looked at: others wait meanwhile, and no model takes as many."""
DEFAULT_OUTPUT_TOKENS = 4096
MOST_TOKENS = 1 << 40
"""No reserve is larger, so that sums of many fit where budgets are kept."""
CHOICES = ("n", "best_of")
TEXTS = ("text", "refusal", "thinking")
DATA_URI = b'"data:'
ESCAPED_SLASH = b"\\/"
QUOTES = 2


def require_fit(
    body: Mapping[str, Any], context: int, user_agent: str | None, *, anthropic: bool = False
) -> None:
    """Raises OverContext if the prompt is clearly longer than a context of so many tokens."""
    estimated = prompt_estimate(body)
    if estimated is not None and estimated > context:
        advice = advice_for(user_agent)
        raise OverContext(estimated, context, anthropic=anthropic, advice=advice)


def prompt_estimate(body: Mapping[str, Any]) -> int | None:
    """Tokens of the prompt of a chat, a completion or a response; None if there is no text."""
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list):
        return _tokens(_bytes_of(messages))
    if isinstance(prompt, str):
        return _tokens(utf8_bytes(prompt))
    if isinstance(prompt, list):
        ids = bool(prompt) and isinstance(prompt[0], int)
        return len(prompt) if ids else _tokens(sum(map(utf8_bytes, prompt[:MOST_TEXTS])))
    instructions, given = body.get("instructions"), body.get("input")
    if isinstance(instructions, str) or isinstance(given, str | list):
        items = _bytes_of(given) if isinstance(given, list) else utf8_bytes(given)
        return _tokens(utf8_bytes(instructions) + items)
    return None


def tools_estimate(body: Mapping[str, Any]) -> int:
    """Tokens of a request's tools, which `prompt_estimate` leaves out."""
    tools = body.get("tools")
    if not tools:
        return 0
    if not isinstance(tools, list):
        return _json_bytes(tools) // BYTES_PER_TOKEN
    between = len(tools) + 1  # commas and brackets
    return (sum(map(_json_bytes, tools)) + between) // BYTES_PER_TOKEN


def _json_bytes(value: Any) -> int:
    return utf8_bytes(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _bytes_of(messages: Sequence[Any]) -> int:
    """Bytes of messages, or of what else may be in their place."""
    size_bytes = BYTES_PER_MESSAGE * len(messages)
    left = MOST_TEXTS
    for message in messages[:MOST_TEXTS]:
        if not isinstance(message, dict):
            size_bytes += utf8_bytes(message)
            continue
        content = message.get("content")
        size_bytes += utf8_bytes(content) + utf8_bytes(message.get("text"))
        if isinstance(content, list) and left > 0:
            parts = content[:left]
            left -= len(parts)
            size_bytes += sum(utf8_bytes(part.get("text")) for part in parts if type(part) is dict)
    return size_bytes


def utf8_bytes(text: Any) -> int:
    """Bytes of a text in UTF-8; 0 of what is no text."""
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _tokens(size_bytes: int) -> int:
    return max(1, size_bytes // BYTES_PER_TOKEN)


class Need(NamedTuple):
    """The most tokens a request may take, to be reserved before it is sent."""

    prompt: int
    output: int

    @property
    def total(self) -> int:
        """Prompt and output."""
        return min(self.prompt + self.output, MOST_TOKENS)


def need(
    raw: bytes, body: Mapping[str, Any], limits: Sequence[str], advertised: int | None
) -> Need:
    """What to reserve for a body, given as its bytes and as JSON.

    ``limits`` are the names under which its dialect bounds the output. ``advertised``: the most
    tokens the model says that it generates, if it does.
    """
    text_bytes, images = without_images(raw, body)
    return Need(
        prompt=_tokens(text_bytes) + images * TOKENS_PER_IMAGE,
        output=min(output_tokens(body, limits, advertised), MOST_TOKENS),
    )


def output_tokens(body: Mapping[str, Any], limits: Sequence[str], advertised: int | None) -> int:
    """The most tokens that a request may generate, over all its choices.

    What another dialect calls its limit is none here: no neuron would heed it.
    """
    limit = DEFAULT_OUTPUT_TOKENS if advertised is None else advertised
    for name in limits:
        asked = body.get(name)
        if type(asked) is int and asked >= 0:
            limit = asked
            break
    for name in CHOICES:
        if name in body:
            return limit * _choices(body)
    return limit


def _choices(body: Mapping[str, Any]) -> int:
    asked = map(body.get, CHOICES)
    return max([1, *(number for number in asked if type(number) is int)])


def without_images(raw: bytes, body: Mapping[str, Any]) -> tuple[int, int]:
    """The size of a JSON text without the images in its messages, and their number.

    Only what stands in the place of an image is one: a text that begins with ``data:`` is text.
    """
    if DATA_URI not in raw:
        return len(raw), 0
    size = len(raw)
    count = 0
    for uri in islice(_data_uris(body), MOST_IMAGES):
        size -= utf8_bytes(uri) + QUOTES
        count += 1
    if count:
        size -= raw.count(ESCAPED_SLASH)  # base64 is full of slashes, and some escape each of them
    return max(0, size), count


def _data_uris(body: Mapping[str, Any]) -> Iterator[str]:
    """The data URIs in the parts of messages, or of what a response takes in their place."""
    left = MOST_TEXTS
    for key in ("messages", "input"):
        items = body.get(key)
        for item in islice(items, MOST_TEXTS) if isinstance(items, list) else ():
            parts = item.get("content") if isinstance(item, dict) else None
            if not isinstance(parts, list) or left <= 0:
                continue
            for part in islice(parts, left):
                if isinstance(part, dict):
                    yield from _data_uris_of(part)
            left -= len(parts)


def _data_uris_of(part: Mapping[str, Any]) -> Iterator[str]:
    for name, value in part.items():
        if isinstance(value, dict):
            value = value.get("url") or value.get("file_data")
        elif name in TEXTS:
            continue
        if isinstance(value, str) and value.startswith("data:"):
            yield value
