"""The one line in the log that every inference request ends with."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

QUOTING = ("template_render_failed", "unsupported_parameter", "invalid_value", "invalid_image")
QUOTE = re.compile(r": |\s*['\"]")

requests = logging.getLogger("helexa.neuron.requests")


def own_words(code: str | None, detail: str) -> str:
    """An error's text up to where it may quote its request, which no log may."""
    return QUOTE.split(detail, maxsplit=1)[0] if code in QUOTING else detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A request that was answered, as far as its client wanted to hear; times in milliseconds.

    ``drafts`` says how many tokens were guessed rightly of how many, "" if none were guessed.
    """

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    drafts: str = ""
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
        said = {name: value for name, value in asdict(done).items() if value != ""}
        self._write(logging.INFO, "request done", said)

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
