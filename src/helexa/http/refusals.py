"""What a server refuses before any handler sees it: the part of the error tree that is HTTP itself.

InvalidRequest
└── RejectedRequest          400  bad_request: not HTTP as it should be
    ├── MalformedJson        400  malformed_json
    ├── UnknownUrl           404  unknown_url
    ├── MethodNotAllowed     405  method_not_allowed
    ├── RequestTimeout       408  request_timeout
    ├── RequestTooLarge      413  request_too_large
    ├── UrlTooLong           414  uri_too_long
    ├── UnsupportedMediaType 415  unsupported_media_type
    └── HeadersTooLarge      431  request_headers_too_large
"""

from __future__ import annotations

from collections.abc import Sequence

from helexa.errors import InvalidRequest


class RejectedRequest(InvalidRequest):
    """Not acceptable as HTTP, whatever is asked for."""

    code = "bad_request"


class MalformedJson(RejectedRequest):
    """The body is not JSON, not UTF-8, or nested too deeply."""

    code = "malformed_json"


class UnknownUrl(RejectedRequest):
    """No route has this path."""

    status = 404
    code = "unknown_url"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unknown request URL: {method} {path}")


class MethodNotAllowed(RejectedRequest):
    """The path exists, the method does not; ``allow`` lists those that do."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allow: Sequence[str]) -> None:
        super().__init__(f"{path} does not take {method}", hint=f"it takes {', '.join(allow)}")
        self.allow = tuple(allow)


class RequestTimeout(RejectedRequest):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"


class RequestTooLarge(RejectedRequest):
    """The body is over the limit."""

    status = 413
    code = "request_too_large"
    extra_fields = ("max_bytes",)

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"request body exceeds {max_bytes} bytes")
        self.max_bytes = max_bytes


class UrlTooLong(RejectedRequest):
    """The request target is over the limit."""

    status = 414
    code = "uri_too_long"


class UnsupportedMediaType(RejectedRequest):
    """The body is not declared as JSON, or is compressed."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(RejectedRequest):
    """The request head is over the limit, in bytes or in fields."""

    status = 431
    code = "request_headers_too_large"
