"""JSON bodies: read, checked, refused with the reason."""

from __future__ import annotations

import json
import json.scanner
import re
from typing import Any, NoReturn

from helexa.http.headers import Headers
from helexa.refusals import MalformedJson, UnsupportedMediaType

MAX_DEPTH = 128
_JSON_TYPE = re.compile(r"application/(?:[-!#$&^_.+0-9a-z]+\+)?json", re.I)


def require_json(headers: Headers) -> None:
    """Raise UnsupportedMediaType unless the body is declared as plain JSON."""
    kind = (headers.get("content-type") or "").partition(";")[0].strip()
    if not _JSON_TYPE.fullmatch(kind):
        said = f"is '{kind}'" if kind else "is missing"
        raise UnsupportedMediaType(f"the content type {said}", hint="send application/json")
    if headers.tokens("content-encoding") - {"identity"}:
        raise UnsupportedMediaType("request bodies must not be compressed")


class Yielding(json.JSONDecoder):
    """Reads as the standard library does, in Python: slower, but other threads get their turns."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]  # no stub


def parse_json(data: bytes, *, max_depth: int = MAX_DEPTH, yielding: bool = False) -> Any:
    """The value of a JSON text in UTF-8, nested at most ``max_depth`` deep.

    Stricter than the standard library: NaN and infinities are not JSON, and text with half a
    surrogate pair could not be written back. ``yielding`` is for large texts in a thread: no step
    of it keeps the interpreter for itself. Raises MalformedJson.
    """
    too_deep = MalformedJson(f"the body is nested more than {max_depth} deep")
    try:
        text = data.decode("utf-8")
        reader = Yielding if yielding else json.JSONDecoder
        value = json.loads(text, cls=reader, parse_constant=_refuse_constant)
        if b"\\ud" in data or b"\\uD" in data:
            _require_unicode(value)
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise MalformedJson(f"the body is not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise too_deep from error
    except ValueError as error:
        raise MalformedJson(f"the body is not JSON ({error})") from error
    if data.count(b"[") + data.count(b"{") > max_depth and _depth(value, max_depth) > max_depth:
        raise too_deep
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _require_unicode(value: Any) -> None:
    """Raise UnicodeEncodeError if a text holds half a surrogate pair."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            item.encode("utf-8")
        elif isinstance(item, dict):
            left += item
            left += item.values()
        elif isinstance(item, list):
            left += item


def _depth(value: Any, enough: int) -> int:
    """How deep lists and objects are nested, counted no further than one past ``enough``."""
    level, depth = [value], 0
    while depth <= enough:
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            break
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth
