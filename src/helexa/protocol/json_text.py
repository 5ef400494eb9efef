"""JSON as bytes, for whoever will read it."""

from __future__ import annotations

import json
from typing import Any

_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
)
# Legal in JSON strings, but readers that split text into lines break an event there.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def to_json(value: Any, *, yielding: bool = False) -> bytes:
    """Compact JSON in UTF-8 on one line, also for readers that know Unicode's other line ends.

    Half a surrogate pair, which UTF-8 cannot hold, is written as an escape. ``yielding`` is for
    large values in a thread: slower, but other threads get their turns. ValueError for NaN.
    """
    text = "".join(_ENCODER.iterencode(value)) if yielding else _ENCODER.encode(value)
    if not text.isascii():
        text = text.translate(_LINE_ENDS)
    return text.encode("utf-8", "backslashreplace")  # the \udXXX it writes is JSON's escape, too
