"""Pictures: passed on like everything else, but paid for by their size and steps."""

from __future__ import annotations

import re
from functools import partial
from math import ceil
from typing import Any

from helexa.gateway.api.openai import sending, tell_inbound
from helexa.gateway.proxy.body import read_ask
from helexa.gateway.proxy.call import Call
from helexa.gateway.proxy.dispatch import dispatch
from helexa.gateway.proxy.relay import relayed
from helexa.gateway.proxy.wires import IMAGES
from helexa.gateway.router import resolve
from helexa.gateway.state import State
from helexa.http import Request, Response

SIDE = 1024
STEPS = 9
TOKENS_PER_UNIT = 1000
_UNITS = re.compile(rb'"helexa_image_units"\s*:\s*(\d{1,12}(?:\.\d{1,12})?)')
_MOST_DIGITS = 6


async def generate(state: State, request: Request) -> Response:
    """Answer a request for pictures by a neuron's answer."""
    call = await request.hold(Call(state, IMAGES, request))
    ask = await read_ask(request)
    call.asks(ask.model, stream=ask.stream)
    tell_inbound(IMAGES, request.path, ask)
    route = await resolve(state, ask.model)
    call.routed(route)
    call.counted()
    units = max(1.0, image_units(ask.value))
    call.price = partial(price, units)
    await call.meter.reserve(tokens_for(units))
    answer = await dispatch(state, call, route, sending(state, IMAGES, request, ask))
    return relayed(call, answer)


def price(asked: float, tail: bytes) -> tuple[int, int]:
    """Tokens and thousandths of a unit, by what the answer says of itself, or what was asked."""
    told = _UNITS.findall(tail)
    units = float(told[-1]) if told else asked
    return tokens_for(units), round(units * TOKENS_PER_UNIT)


def tokens_for(units: float) -> int:
    """What so many units count as in a budget of tokens."""
    return ceil(units * TOKENS_PER_UNIT)


def image_units(body: dict[str, Any]) -> float:
    """Millions of pixels, times steps, twice for a negative prompt."""
    width, height = size(body.get("size"))
    steps = body.get("num_steps")
    steps = steps if type(steps) is int and steps >= 0 else STEPS
    negative = body.get("negative_prompt")
    twice = 2 if isinstance(negative, str) and negative else 1
    return float(width * height / 1e6 * min(steps, 10**_MOST_DIGITS) * twice)


def size(text: object) -> tuple[int, int]:
    """Width and height of `WxH`; 1024 x 1024 for anything else."""
    if isinstance(text, str):
        words = [word.strip() for word in text.lower().split("x")]
        if len(words) == 2 and all(is_side(word) for word in words):
            return int(words[0]), int(words[1])
    return SIDE, SIDE


def is_side(word: str) -> bool:
    """Whether a text is a number of pixels that could be meant."""
    return word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS
