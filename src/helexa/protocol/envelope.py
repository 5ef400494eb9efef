"""Errors on the wire: written from the exception tree, read back as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helexa.errors import HelexaError, InvalidRequest, PreflightError
from helexa.protocol.sse import Frame
from helexa.refusals import ChainedConversation, CudaUnavailable, MethodNotAllowed, NoHarness

FLAT = (ChainedConversation, NoHarness, CudaUnavailable)
TELL_PARAM = ("unsupported_parameter", "invalid_value", "invalid_image", "invalid_request_body")
"""Codes that come with the name of a field; in others it is the SDK's, not the client's."""


@dataclass(frozen=True, slots=True)
class WireError:
    """An error as a client sees it: a status, a few fields, and when to come back.

    ``flat`` errors are the older, bare form of the control routes: their ``error`` is a text, or,
    for a refused load, an object (``detail``). ``allow`` lists the methods of a 405.
    """

    status: int
    message: str
    type: str = "api_error"
    code: str | None = None
    param: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    retry_after_s: int | None = None
    flat: bool = False
    detail: Mapping[str, Any] | None = None
    allow: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        if self.flat:
            flat = {"error": self.message if self.detail is None else dict(self.detail)}
            return flat if self.code is None else {**flat, "code": self.code}
        fields = {
            "message": self.message,
            "type": self.type,
            "code": self.code,
            "param": self.param,
        }
        return {"error": {**fields, **self.extras}}

    def headers(self) -> list[tuple[str, str]]:
        """The headers that come with it, beside the content type."""
        found = []
        if self.retry_after_s is not None:
            found.append(("retry-after", str(self.retry_after_s)))
        if self.status == 401:
            found.append(("www-authenticate", "Bearer"))
        if self.allow:
            found.append(("allow", ", ".join(self.allow)))
        return found

    def frame(self) -> Frame:
        """The error as the last event of a stream whose head is gone."""
        return Frame(self.body())


def wire_error(error: BaseException) -> WireError:
    """How an inference route answers an error; any exception that is not ours is a 500."""
    if not isinstance(error, HelexaError):
        return WireError(500, chain_text(error))
    param = error.param if isinstance(error, InvalidRequest) else None
    unknown = error.status == 500 and error.code is None
    flat = isinstance(error, FLAT)
    return WireError(
        status=error.status,
        message=chain_text(error) if unknown else error.wire_message,
        type=error.type,
        code=error.code,
        param=param if error.code in TELL_PARAM else None,
        extras=error.extras,
        retry_after_s=None if flat else error.retry_after_s,
        flat=flat,
        allow=error.allow if isinstance(error, MethodNotAllowed) else (),
    )


def flat_error(error: BaseException, status: int = 400) -> WireError:
    """How a control route answers an error: its whole text, without an envelope."""
    return WireError(status, chain_text(error), flat=True)


def refused_load(error: PreflightError) -> WireError:
    """How a load is answered that was refused for what the model consists of."""
    return WireError(422, str(error), flat=True, detail={"kind": error.kind, **error.details})


def chain_text(error: BaseException) -> str:
    """An error's text and those of its causes, outermost first; what repeats is left out."""
    texts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        text = str(link) or type(link).__name__
        if not any(text in told for told in texts):
            texts.append(text)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return ": ".join(texts)


def read_error(status: int, body: bytes, retry_after: str | None = None) -> WireError:
    """Read an upstream's error, enveloped or flat; the body may be anything, and never fails."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    error = value.get("error") if isinstance(value, dict) else None
    wait_s = _whole_seconds(retry_after)
    if isinstance(error, dict) and not isinstance(error.get("message"), str) and "kind" in error:
        message = f"the load was refused: {error['kind']}"
        return WireError(status, message, retry_after_s=wait_s, flat=True, detail=error)
    if isinstance(error, dict):
        return WireError(
            status=status,
            message=_text(error.get("message")) or f"upstream returned {status}",
            type=_text(error.get("type")) or "api_error",
            code=_text(error.get("code")),
            param=_text(error.get("param")),
            extras={name: error[name] for name in error if name not in _FIELDS},
            retry_after_s=wait_s,
        )
    message = error if isinstance(error, str) and error else f"upstream returned {status}"
    code = _text(value.get("code")) if isinstance(value, dict) else None
    return WireError(status, message, code=code, retry_after_s=wait_s, flat=True)


_FIELDS = ("message", "type", "code", "param")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole_seconds(header: str | None) -> int | None:
    """A Retry-After in seconds; the other form, a date, is not used between us."""
    text = (header or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None
