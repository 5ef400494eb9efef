"""The sampling parameters that every surface takes, and what their values may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import PlainValidator

from helexa.errors import InvalidRequest
from helexa.protocol.fields import Body, Count, Flag, Number, Stops, TopK, wrong_shape

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
SEED_BITS: Final = 64

_Rule = tuple[Callable[[float], bool], str]
_PENALTY: Final[_Rule] = (lambda value: -2.0 <= value <= 2.0, "from -2 to 2")
_RULES: Final[dict[str, _Rule]] = {
    "temperature": (math.isfinite, "finite"),
    "top_p": (math.isfinite, "finite"),
    "min_p": (lambda value: -math.inf < value <= 1.0, "at most 1"),
    "seed": (lambda value: value < 2**SEED_BITS, f"below 2^{SEED_BITS}"),
    "repetition_penalty": (lambda value: 0.0 < value < math.inf, "above 0"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
}
_PASSED: Final = ("top_k", "repeat_last_n", "stop_token_ids", "ignore_eos", "speculative")


def _biases(value: Any) -> dict[str, float]:
    numbers = value.values() if isinstance(value, dict) else [None]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise wrong_shape("must be an object of token ids and numbers")
    return dict(value)


class SamplingFields(Body):
    """How a request wants its tokens drawn; the names are the engine's own."""

    temperature: Number | None = None
    top_p: Number | None = None
    top_k: TopK | None = None
    min_p: Number | None = None
    seed: Count | None = None
    repetition_penalty: Number | None = None
    repeat_last_n: Count | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: Annotated[dict[str, float], PlainValidator(_biases)] | None = None
    stop: Stops | None = None
    stop_token_ids: list[Count] | None = None
    ignore_eos: Flag | None = None
    speculative: Flag | None = None

    def sampling(self) -> dict[str, Any]:
        """The parameters that were given, as keywords of the engine's `SamplingParams`.

        Raises InvalidRequest with the field's name in ``param`` for a value out of range.
        """
        found: dict[str, Any] = {}
        for name, (fits, wanted) in _RULES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not fits(value):
                raise bad_value(name, f"must be {wanted}")
            found[name] = value
        found |= {name: value for name in _PASSED if (value := getattr(self, name)) is not None}
        if self.logit_bias is not None:
            found["logit_bias"] = _checked_biases(self.logit_bias)
        if self.stop is not None:
            found["stop"] = _checked_stops(self.stop)
        return found


def bad_value(param: str, fact: str, *, hint: str = "") -> InvalidRequest:
    """The error for a field whose value, not its type, is wrong."""
    return InvalidRequest(f"{param} {fact}", param=param, hint=hint)


def _checked_biases(biases: dict[str, float]) -> dict[int, float]:
    found = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 18):
            raise bad_value("logit_bias", "has a key that is not a token id")
        if not -100.0 <= bias <= 100.0:
            raise bad_value("logit_bias", "has a value outside -100 to 100")
        found[int(key)] = float(bias)
    return found


def _checked_stops(stops: tuple[str, ...]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise bad_value("stop", f"has {len(stops)} strings, at most {MAX_STOPS} are allowed")
    if not all(1 <= len(text) <= MAX_STOP_CHARS for text in stops):
        raise bad_value("stop", f"has a string not of 1 to {MAX_STOP_CHARS} characters")
    return stops
