"""What a request may ask of sampling, what a model suggests, and how the two are put together.

No torch here: requests are validated in processes that never load it.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Final, TypeVar

from helexa.errors import InvalidRequest

T = TypeVar("T")

FALLBACK_TEMPERATURE: Final = 0.7
FALLBACK_REPEAT_LAST_N: Final = 64
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_CHOICES: Final = 128
MAX_LOGPROBS: Final = 20
SEED_BITS: Final = 64
_SEED_STEP: Final = 0x9E3779B97F4A7C15  # odd, 2^64 / golden ratio: choices get far-apart seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request is sampled, checked when it is made.

    ``None`` means "as the model suggests", see ``resolve``. One ``str`` for ``stop`` is one stop
    string; keys of ``logit_bias`` may be decimal text, as JSON has it. Integers of numpy are
    integers, ``True`` is not. Raises InvalidRequest naming the field in ``param``.

    temperature         ≤ 0 is greedy, whatever else is set
    top_k               0 or -1: off
    top_p               outside (0, 1): off
    min_p               ≤ 0: off, at most 1
    seed                0 … 2^64 - 1; None draws one
    repetition_penalty  > 0, 1: off; looks at the last ``repeat_last_n`` generated tokens
    logprobs            how many alternatives to report per token, 0 … 20; None reports nothing
    speculative         whether tokens may be guessed ahead, which changes only the speed; None:
                        if the engine was given a drafter
    """

    max_tokens: int = 8192
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    n: int = 1
    logprobs: int | None = None
    speculative: bool | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, check(name, value))
        if self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, above max_tokens, which is {self.max_tokens}",
                param="min_tokens",
                hint="lower min_tokens or raise max_tokens",
            )

    def override(self, **changes: Any) -> SamplingParams:
        """These params with some fields changed; TypeError for a name that is no field."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise TypeError(f"{name!r} is not a sampling parameter; {suggestion(name, known)}")
        return replace(self, **changes)

    def choice(self, index: int) -> SamplingParams:
        """The params of answer ``index`` of ``n``: the same, but each with a seed of its own."""
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=(self.seed + index * _SEED_STEP) % 2**SEED_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """What a model's ``generation_config.json`` suggests; None where it says nothing usable."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, text: str | None) -> GenerationDefaults:
        """Read the file's text; no file, a malformed one, or a wrong value counts as not said.

        ``eos_token_id`` is one id or a list; every other key, ``do_sample`` too, is ignored.
        """
        try:
            raw = json.loads(text) if text is not None else None
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            return cls()
        return cls(
            temperature=_usable(raw, "temperature"),
            top_p=_usable(raw, "top_p"),
            top_k=_usable(raw, "top_k"),
            min_p=_usable(raw, "min_p"),
            repetition_penalty=_usable(raw, "repetition_penalty"),
            eos_token_ids=_eos_ids(raw.get("eos_token_id")),
        )


def resolve(
    params: SamplingParams, defaults: GenerationDefaults, vocab_size: int
) -> SamplingParams:
    """Fill every None that sampling needs: the request, else the model, else the fallback.

    What is off is spelled one way: temperature 0.0 (greedy), top_k 0, top_p 1.0, min_p 0.0. A
    missing seed is drawn from the system. ``logprobs`` stays None when none are wanted.
    Raises InvalidRequest if ``logit_bias`` or ``stop_token_ids`` name an id that does not exist.
    """
    for name in ("logit_bias", "stop_token_ids"):
        require_in_vocabulary(name, getattr(params, name), vocab_size)
    temperature = _first(params.temperature, defaults.temperature, FALLBACK_TEMPERATURE)
    top_p = _first(params.top_p, defaults.top_p, 1.0)
    top_k = _first(params.top_k, defaults.top_k, 0)
    return replace(
        params,
        temperature=max(temperature, 0.0),
        top_p=top_p if 0.0 < top_p < 1.0 else 1.0,
        top_k=top_k if 0 < top_k < vocab_size else 0,
        min_p=max(_first(params.min_p, defaults.min_p, 0.0), 0.0),
        repetition_penalty=_first(params.repetition_penalty, defaults.repetition_penalty, 1.0),
        repeat_last_n=_first(params.repeat_last_n, None, FALLBACK_REPEAT_LAST_N),
        seed=secrets.randbits(SEED_BITS) if params.seed is None else params.seed,
    )


def _first(asked: T | None, suggested: T | None, fallback: T) -> T:
    if asked is not None:
        return asked
    return suggested if suggested is not None else fallback


def require_in_vocabulary(name: str, ids: Iterable[int], vocab_size: int) -> None:
    """Raises InvalidRequest for the field ``name`` if an id is past the end of the vocabulary."""
    for token_id in ids:
        if token_id >= vocab_size:
            raise InvalidRequest(
                f"{name} has the token id {token_id}, the vocabulary ends at {vocab_size - 1}",
                param=name,
                hint="take ids from this model's tokenizer",
            )


def suggestion(name: str, known: list[str]) -> str:
    """What somebody may have meant who wrote a name that is not known."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "there are " + ", ".join(known)


# --- generation_config.json ---------------------------------------------------------------------


def _usable(raw: Mapping[str, Any], name: str) -> Any:
    """The file's value of a field, None where a request could not have asked for it either."""
    value = raw.get(name)
    if value is None:
        return None
    try:
        return _CHECKS[name](name, value)
    except InvalidRequest:
        return None


def _eos_ids(value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0)


# --- checks: name and value in, the clean value out, or InvalidRequest ---------------------------

_Check = Callable[[str, Any], Any]


def _invalid(name: str, wanted: str, value: Any, hint: str = "") -> InvalidRequest:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return InvalidRequest(f"{name} must be {wanted}, not {shown}", param=name, hint=hint)


def _integer(low: int, high: int | None = None, hint: str = "") -> _Check:
    wanted = (
        f"a whole number from {low} to {high}" if high is not None else f"a whole number ≥ {low}"
    )

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _invalid(name, wanted, value, hint)
        number = int(value)
        if number < low or (high is not None and number > high):
            raise _invalid(name, wanted, value, hint)
        return number

    return check


def _number(
    wanted: str, fits: Callable[[float], bool] = lambda number: True, hint: str = ""
) -> _Check:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _invalid(name, wanted, value, hint)
        try:
            number = float(value)
        except OverflowError:
            raise _invalid(name, wanted, value, hint) from None
        if not math.isfinite(number) or not fits(number):
            raise _invalid(name, wanted, value, hint)
        return number

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, "True or False", value)
    return value


def _stops(name: str, value: Any) -> tuple[str, ...]:
    wanted = "a string or a list of strings"
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or isinstance(texts, bytes | bytearray):
        raise _invalid(name, wanted, value)
    if len(texts) > MAX_STOPS:
        raise InvalidRequest(
            f"{name} has {len(texts)} strings, at most {MAX_STOPS} are allowed", param=name
        )
    for text in texts:
        if not isinstance(text, str):
            raise _invalid(name, wanted, value)
        if not 1 <= len(text) <= MAX_STOP_CHARS:
            raise InvalidRequest(
                f"{name} has a string of {len(text)} characters, 1 to {MAX_STOP_CHARS} are allowed",
                param=name,
                hint="leave out empty strings, shorten long ones",
            )
    return tuple(texts)


_token_id = _integer(0)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _invalid(name, "a list of token ids", value)
    return tuple(_token_id(name, token_id) for token_id in value)


_bias = _number("a map of token ids to numbers from -100 to 100", lambda b: -100.0 <= b <= 100.0)


def _biases(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise _invalid(name, "a map of token ids to numbers from -100 to 100", value)
    return {_bias_id(name, key): _bias(name, bias) for key, bias in value.items()}


def _bias_id(name: str, key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 18:
        return int(key)
    if isinstance(key, bool) or not isinstance(key, Integral) or key < 0:
        raise _invalid(name, "a map whose keys are token ids", key)
    return int(key)


_penalty = _number("a number from -2 to 2", lambda p: -2.0 <= p <= 2.0, "0 turns it off")

_CHECKS: Final[Mapping[str, _Check]] = {
    "max_tokens": _integer(0),
    "temperature": _number("a number", hint="0 always takes the likeliest token"),
    "top_p": _number("a number", hint="1 turns it off"),
    "top_k": _integer(-1, hint="0 turns it off"),
    "min_p": _number("a number, at most 1", lambda p: p <= 1.0, "0 turns it off"),
    "seed": _integer(0, 2**SEED_BITS - 1, hint="leave it out for a random one"),
    "repetition_penalty": _number("a number above 0", lambda p: p > 0.0, "1 turns it off"),
    "repeat_last_n": _integer(0, hint="0 turns the repetition penalty off"),
    "presence_penalty": _penalty,
    "frequency_penalty": _penalty,
    "logit_bias": _biases,
    "stop": _stops,
    "stop_token_ids": _token_ids,
    "ignore_eos": _flag,
    "min_tokens": _integer(0),
    "n": _integer(1, MAX_CHOICES),
    "logprobs": _integer(0, MAX_LOGPROBS, "it is the number of alternatives to report per token"),
    "speculative": _flag,
}
_OPTIONAL: Final = frozenset(f.name for f in fields(SamplingParams) if f.default is None)
