"""What goes wrong with the network: a port that cannot be had, a server that fails us."""

from __future__ import annotations

from typing import ClassVar

from helexa.errors import HelexaError


class BindError(HelexaError):
    """The listen address cannot be used; ``reason`` says why, without naming it."""

    def __init__(self, message: str, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason or message


class UpstreamError(HelexaError):
    """The server behind this one failed after the request had been sent to it.

    The text is fit for clients; what exactly happened is in ``detail``, for the log.
    """

    status = 502
    code = "upstream_connection_error"
    text: ClassVar[str] = "upstream request failed"

    def __init__(self, detail: str) -> None:
        super().__init__(self.text)
        self.detail = detail


class UpstreamUnreachable(UpstreamError):
    """No connection was made, so nothing was sent: it is safe to ask elsewhere."""


class UpstreamTimeout(UpstreamError):
    """The server behind this one took too long to answer, or to go on."""

    status = 504
    code = "upstream_timeout"
    text = "upstream did not answer in time"


class UpstreamMalformed(UpstreamError):
    """The server behind this one answered something that is not HTTP."""

    code = "upstream_malformed_response"
    text = "malformed upstream response"
