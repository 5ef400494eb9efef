"""JSON as bytes, both ways, for data that strangers wrote or will read."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from helexa.errors import HelexaError
from helexa.refusals import MalformedJson, UnsupportedMediaType

MAX_DEPTH = 128

_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
)
# Legal in JSON strings, but readers that split text into lines break an event there.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8 on one line, also for readers that know Unicode's other line ends.

    Half a surrogate pair, which UTF-8 cannot hold, is written as an escape. ValueError for NaN.
    """
    text = _ENCODER.encode(value)
    if not text.isascii():
        text = text.translate(_LINE_ENDS)
    return text.encode("utf-8", "backslashreplace")  # the \udXXX it writes is JSON's escape, too


def read_json(body: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a request body.

    Raises MalformedJson for what is not JSON in UTF-8, or has more than ``max_depth`` objects and
    lists within each other.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError as error:  # a number of too many digits
        raise MalformedJson(f"the body is not JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > max_depth and _deeper_than(max_depth, value):
        raise _too_deep(max_depth)
    return value


def check_media(content_type: str | None, content_encoding: str | None = None) -> None:
    """Raise UnsupportedMediaType unless these headers say plain JSON."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json") and kind != "application/+json"
    ):
        fact = (
            f"content type {kind!r:.80} is not" if kind else "there is no content type, it must be"
        )
        raise UnsupportedMediaType(f"{fact} application/json")
    if content_encoding is not None and content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("request bodies must not be compressed")


def _deeper_than(limit: int, value: Any) -> bool:
    level = [value]
    for _ in range(limit):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return False
    return True


def _inside(value: Any) -> list[Any]:
    """The objects and lists right inside an object or a list; for a plain value, none."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict | list)]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_deep(limit: int) -> HelexaError:
    return MalformedJson(f"the body is nested more than {limit} levels deep")
