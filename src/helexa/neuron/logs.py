"""The log of a daemon: its levels and formats, and the one line that every request ends with."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from helexa.neuron.patient import PatientWriter

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
SECRETS = re.compile(r"(?i)\b(bearer\s+)[^\s\"\\]+|\b(hf_)\w{8,}")
QUOTING = ("template_render_failed", "unsupported_parameter", "invalid_value", "invalid_image")
QUOTE = re.compile(r": |\s*['\"]")
PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f]+")

requests = logging.getLogger("helexa.neuron.requests")

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
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says apart from its message; a field without a value is left out."""
    given: dict[str, Any] = getattr(record, "fields", {})
    return {name: value for name, value in given.items() if value is not None}


def level_name(record: logging.LogRecord) -> str:
    return NAMES.get(record.levelno, record.levelname)


def moment(record: logging.LogRecord) -> str:
    """When a record was made, in UTC."""
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_secrets(text: str) -> str:
    """The text with bearers and tokens of hubs made unreadable, should any have got into it."""
    return SECRETS.sub(lambda match: f"{match[1] or match[2]}***", text)


class TextFormatter(logging.Formatter):
    """`time LEVEL message key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        words = [moment(record), level_name(record), record.getMessage()]
        words += [f"{name}={as_word(value)}" for name, value in fields_of(record).items()]
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


def as_word(value: object) -> str:
    """A value as one word, quoted if it would be more."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)


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
        return without_secrets(json.dumps(said, ensure_ascii=False, default=str))


def own_words(code: str | None, detail: str) -> str:
    """An error's text up to where it may quote its request, which no log may."""
    return QUOTE.split(detail, maxsplit=1)[0] if code in QUOTING else detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A request that was answered, as far as its client wanted to hear; times in milliseconds."""

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    client_gone: bool = False


@dataclass(slots=True, kw_only=True)
class RequestLine:
    """The terminal line of one inference request: the first of `done`, `rejected` and `failed`.

    ``place`` stands for the model where a body could not be read: method and path.
    """

    request_id: str
    surface: str
    model: str | None = None
    principal: str | None = None
    stream: bool = False
    place: tuple[str, str] | None = None
    clock: Callable[[], float] = time.perf_counter
    written: bool = False
    started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_s = self.clock()

    def done(self, done: Done) -> None:
        """It was answered."""
        self._write(logging.INFO, "request done", asdict(done))

    def rejected(
        self, *, status: int, error_type: str, code: str | None, detail: str, **extras: object
    ) -> None:
        """It was refused before anything was sent."""
        detail = own_words(code, detail)
        said = {"status": status, "error_type": error_type, "code": code, "detail": detail}
        self._write(logging.WARNING, "request rejected", {**said, **extras})

    def failed(self, *, code: str | None, detail: str, completion_tokens: int = 0) -> None:
        """It ended in an error of ours, or in one after the answer had begun."""
        detail = own_words(code, detail)
        said = {"code": code, "detail": detail, "completion_tokens": completion_tokens}
        self._write(logging.ERROR, "request failed", said)

    def _write(self, level: int, text: str, more: Mapping[str, object]) -> None:
        if self.written:
            return
        self.written = True
        said: dict[str, object] = {"request_id": self.request_id, "surface": self.surface}
        if self.place is not None and self.model is None:
            said |= {"method": self.place[0], "path": self.place[1]}
        else:
            said["model"] = self.model
        said["principal"] = self.principal or "anonymous"
        said["stream"] = self.stream
        said["total_ms"] = round(1000 * (self.clock() - self.started_s))
        requests.log(level, text, extra={"fields": {**said, **more}})
