"""The log of a daemon: its levels and formats, and nothing secret in it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TextIO

from helexa.daemon.patient import PatientWriter

TRACE = 5
LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
NAMES = {logging.CRITICAL: "ERROR", logging.WARNING: "WARN", TRACE: "TRACE"}
SECRETS = re.compile(r"(?i)\b(bearer\s+)(?!<key>)[^\s\"\\]+|\b(hf_)\w{8,}")
PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What ends a line or steers a terminal, and halves of pairs, which no encoding takes."""
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

Format = Literal["text", "json"]


def choose_level(option: str | None, environ: Mapping[str, str]) -> int:
    """The level to log at: the option, `HELEXA_LOG`, the first plain word of `RUST_LOG`, info."""
    words = [option or "", environ.get("HELEXA_LOG", "")]
    words += environ.get("RUST_LOG", "").split(",")
    named = (LEVELS.get(word.strip().lower()) for word in words)
    return next((level for level in named if level is not None), logging.INFO)


def choose_format(environ: Mapping[str, str]) -> Format:
    """`json` if that is what `HELEXA_LOG_FORMAT` says, else `text`."""
    wanted = environ.get("HELEXA_LOG_FORMAT", "").strip().lower()
    return "json" if wanted == "json" else "text"


def configure_logging(level: int, format: Format, stream: TextIO | PatientWriter) -> None:
    """Send what helexa logs to ``stream``, in place of where it went before."""
    root = logging.getLogger("helexa")
    handler: logging.Handler
    handler = Later(stream) if isinstance(stream, PatientWriter) else logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


class Later(logging.Handler):
    """Has records put into words by the thread that writes them, where it cannot matter when."""

    def __init__(self, writer: PatientWriter) -> None:
        super().__init__()
        self._writer = writer

    def handle(self, record: logging.LogRecord) -> bool:
        """Pass it on; nothing here needs a lock."""
        if record.args or record.exc_info:  # which may be something else by then
            self._writer.write(f"{self.format(record)}\n")
        else:
            self._writer.write_later(lambda: f"{self.format(record)}\n")
        return True


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says apart from its message; a field without a value is left out."""
    given: dict[str, Any] = getattr(record, "fields", {})
    return {name: value for name, value in given.items() if value is not None}


def level_name(record: logging.LogRecord) -> str:
    return NAMES.get(record.levelno, record.levelname)


def moment(record: logging.LogRecord) -> str:
    """When a record was made, in UTC."""
    return f"{_second(int(record.created))}.{int(record.created * 1000) % 1000:03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def without_secrets(text: str) -> str:
    """The text with bearers and tokens of hubs made unreadable, should any have got into it."""
    lower = text.lower()
    if "bearer" not in lower and "hf_" not in lower:  # much sooner found out than by the pattern
        return text
    return SECRETS.sub(lambda match: f"{match[1] or match[2]}***", text)


def on_one_line(text: str) -> str:
    """The text with escapes for what would not stay on its line, as JSON writes them."""
    return UNSEEN.sub(lambda match: ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


class TextFormatter(logging.Formatter):
    """`time LEVEL message key=value …`

    Whatever is logged, one record is one line; the lines of a traceback follow it, indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        words = [moment(record), level_name(record), on_one_line(record.getMessage())]
        words += [f"{name}={as_word(value)}" for name, value in fields_of(record).items()]
        lines = [" ".join(words)]
        if record.exc_info:
            traced = self.formatException(record.exc_info).split("\n")
            lines += [f"  {on_one_line(line)}" for line in traced]
        return without_secrets("\n".join(lines))


def as_word(value: object) -> str:
    """A value as one word, quoted if it would be more."""
    if type(value) is int:
        return str(value)
    if type(value) is bool:
        return "true" if value else "false"
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    return on_one_line(json.dumps(value, ensure_ascii=False, default=str))


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": moment(record),
            "level": level_name(record),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return without_secrets(on_one_line(json.dumps(said, ensure_ascii=False, default=str)))
