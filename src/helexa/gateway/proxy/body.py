"""The body of a request: read once, understood only as far as the gateway must, passed on as it is.

Nobody but the neuron judges what else is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # no stub has it
from typing import Any, TypeVar

import anyio.to_thread

from helexa.gateway.refusals import MissingModelField
from helexa.http import Request
from helexa.http.body import Yielding
from helexa.refusals import UnsupportedMediaType

LARGE_BYTES = 256 * 1024
"""What is larger is worked on in a thread, as the event loop has streams to pass on."""
SMALL_BYTES = 16 * 1024
"""Nobody minds what is made of something smaller."""
BYTES_PER_CONTAINER = 300
BYTES_PER_ITEM = 50
COUNTED_AT_ONCE = 1 << 20

Made = TypeVar("Made")

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = JSONDecoder()
_ONLY_MODEL = re.compile(rb'"model"[ \t\n\r]*:[ \t\n\r]*("(?:[^"\\]|\\.)*")')
_ESCAPED_LETTER = b"\\u006"  # with which `model` could be spelled


@dataclass(slots=True)
class Ask:
    """What is asked: the bytes, their value, the model's name, and whether a stream is wanted."""

    body: bytes
    value: dict[str, Any]
    model: str
    stream: bool


async def read_ask(request: Request) -> Ask:
    """The body of an inference request.

    Raises MissingModelField for what is not a JSON object with a model, UnsupportedMediaType for a
    compressed one, and what `Request.body` raises.
    """
    data, value = await read_json(request)
    if not isinstance(value, dict):
        raise MissingModelField
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise MissingModelField
    return Ask(data, value, model, value.get("stream") is True)


async def read_json(request: Request) -> tuple[bytes, Any]:
    """The bytes of a body and their value; None for what is not JSON."""
    if request.headers.first(b"content-encoding") is not None:
        refuse_compressed(request)
    data = await request.body()
    if len(data) <= SMALL_BYTES:
        return data, parse(data)
    request.takes(await aside(len(data), lambda: parsed_bytes(data)))
    decoder = Yielding() if len(data) > LARGE_BYTES else _DECODER
    return data, await aside(len(data), lambda: parse(data, decoder))


async def aside(size: int, work: Callable[[], Made]) -> Made:
    """Do what takes the longer the larger a body is, in a thread if that is large."""
    return work() if size <= LARGE_BYTES else await anyio.to_thread.run_sync(work)


def parsed_bytes(data: bytes) -> int:
    """About what a body's value takes besides its texts: far more than the body if it has none."""
    containers = items = 0
    for start in range(0, len(data), COUNTED_AT_ONCE):  # others have their turns in between
        end = start + COUNTED_AT_ONCE
        containers += data.count(b"{", start, end) + data.count(b"[", start, end)
        items += data.count(b",", start, end)
    return containers * BYTES_PER_CONTAINER + items * BYTES_PER_ITEM


def refuse_compressed(request: Request) -> None:
    """Raises UnsupportedMediaType unless the body is said to be plain."""
    if request.headers.tokens("content-encoding") - {"identity"}:
        raise UnsupportedMediaType("request bodies must not be compressed")


def parse(data: bytes, decoder: JSONDecoder = _DECODER) -> Any:
    """The value of a JSON text in UTF-8; None for anything else, also for what is nested too deep.

    A null is no request either.
    """
    try:
        return decoder.decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def with_model(body: bytes, model: str) -> bytes:
    """The body with another top-level `model`: every other byte stays as it is.

    ``body`` is a JSON object with such a key. Written anew, numbers could change.
    """
    named = json.dumps(model, ensure_ascii=False).encode("utf-8")
    only = _ONLY_MODEL.search(body) if _names_model_once(body) else None
    if only is not None:
        return b"".join((body[: only.start(1)], named, body[only.end(1) :]))
    text = body.decode("utf-8")
    parts: list[str] = []
    at = 0
    for start, end in model_spans(text):
        parts += [text[at:start], named.decode()]
        at = end
    parts.append(text[at:])
    return "".join(parts).encode("utf-8")


def _names_model_once(body: bytes) -> bool:
    """Whether only one string of a body that has a `model` key is called that.

    No key can then be meant but the outermost: that is there, and spelled without escapes.
    """
    return body.count(b'"model"') == 1 and _ESCAPED_LETTER not in body


def model_spans(text: str) -> list[tuple[int, int]]:
    """Where the values of top-level `model` keys are; a repeated key is there each time."""
    decoder = Yielding() if len(text) > LARGE_BYTES else _DECODER
    spans: list[tuple[int, int]] = []
    at = _skip(text, text.index("{") + 1)
    while text[at] == '"':
        key, at = scanstring(text, at + 1)
        start = _skip(text, _skip(text, at) + 1)  # behind the colon
        _, end = decoder.raw_decode(text, start)
        if key == "model":
            spans.append((start, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return spans


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
