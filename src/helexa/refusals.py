"""What only servers raise: requests they refuse, and work they cannot take on now.

    HelexaError
    ├── InvalidRequest
    │   ├── UnsupportedParameter             400 unsupported_parameter
    │   └── InvalidBody                      422 invalid_request_body
    ├── Refusal                              the request is at fault; the same one fails again
    │   ├── MalformedJson                    400 malformed_json
    │   ├── InvalidApiKey                    401 invalid_api_key
    │   ├── UnknownUrl                       404 unknown_url
    │   ├── ModelNotFound                    404 model_not_found
    │   ├── MethodNotAllowed                 405 method_not_allowed
    │   ├── RequestTimeout                   408 request_timeout
    │   ├── RequestTooLarge                  413 request_too_large
    │   ├── UnsupportedMediaType             415 unsupported_media_type
    │   ├── WrongModality                    422 wrong_modality
    │   ├── HeadersTooLarge                  431 request_headers_too_large
    │   │   └── TargetTooLong                414 uri_too_long
    │   └── ChainedConversation              400 chained_conversation_not_supported, flat
    ├── CapacityError
    │   └── KvUnservable                     413 prompt_too_long_for_vram
    ├── Overloaded                           503 rate_limit_exceeded
    │   ├── QueueFull, SeatTimeout, AnonYield
    │   ├── PrincipalCap, RateLimited        429
    │   └── InsufficientQuota                429 insufficient_quota
    ├── Unavailable                          503 service_unavailable
    │   ├── ModelRecovering, ModelUnloaded   model_recovering, model_unloaded
    │   ├── LowMemory, KvTimeout             insufficient_vram
    │   ├── ShuttingDown                     shutting_down
    │   ├── DriverSilent                     service_unavailable
    │   ├── NotBuilt                         501 not_implemented
    │   └── NoHarness, CudaUnavailable       flat
    └── UnfinishedAnswer                     500, no code

A *flat* error is written ``{"error": text}``, all others in the envelope of `protocol.envelope`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helexa.errors import CapacityError, HelexaError, InvalidRequest


class UnsupportedParameter(InvalidRequest):
    """A feature is asked for that this server does not have; ``param`` names it."""

    code = "unsupported_parameter"


class InvalidBody(InvalidRequest):
    """A body that is JSON, but not of the shape that the route takes."""

    status = 422
    code = "invalid_request_body"


class Refusal(HelexaError):
    """A request that is wrong in itself: sent again, it fails again."""

    status = 400
    type = "invalid_request_error"
    fault = "request"
    code: str | None = "bad_request"


class MalformedJson(Refusal):
    """A body that is not JSON in UTF-8, or is nested too deep."""

    code = "malformed_json"


class InvalidApiKey(Refusal):
    """The bearer is missing or wrong."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str = "invalid API key") -> None:
        super().__init__(message)


class UnknownUrl(Refusal):
    """No route has this path."""

    status = 404
    code = "unknown_url"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"Unknown request URL: {method} {path}")


class MethodNotAllowed(Refusal):
    """The path exists, but not for this method; ``allow`` lists those it has."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allow: Sequence[str]) -> None:
        self.allow = tuple(allow)
        super().__init__(f"{path} does not take {method}, only {', '.join(self.allow)}")


class RequestTimeout(Refusal):
    """The client took too long to send its request."""

    status = 408
    code = "request_timeout"


class RequestTooLarge(Refusal):
    """The body is larger than the server reads."""

    status = 413
    code = "request_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"request body exceeds {max_bytes} bytes")
        self.max_bytes = max_bytes

    @property
    def extras(self) -> dict[str, Any]:
        """The limit."""
        return {"max_bytes": self.max_bytes}


class HeadersTooLarge(Refusal):
    """The request line and headers are larger than the server reads."""

    status = 431
    code = "request_headers_too_large"


class TargetTooLong(HeadersTooLarge):
    """The path and query of a request are longer than the server reads."""

    status = 414
    code = "uri_too_long"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the request target exceeds {max_bytes} bytes")


class UnsupportedMediaType(Refusal):
    """The body is not sent as plain JSON."""

    status = 415
    code = "unsupported_media_type"


class ModelNotFound(Refusal):
    """No such model is loaded here."""

    status = 404
    code = "model_not_found"

    def __init__(self, model_id: str, message: str | None = None) -> None:
        super().__init__(message or f"model '{model_id}' is not loaded")
        self.model_id = model_id

    @property
    def extras(self) -> dict[str, Any]:
        """Which model."""
        return {"model_id": self.model_id}


class WrongModality(Refusal):
    """The model is there, but makes something else than was asked for."""

    status = 422
    code = "wrong_modality"

    def __init__(self, model_id: str, message: str, *, suggestion: str) -> None:
        super().__init__(message, hint=suggestion)
        self.model_id = model_id

    @property
    def extras(self) -> dict[str, Any]:
        """Which model, and what to do instead."""
        return {"model_id": self.model_id, "suggestion": self.hint}


class ChainedConversation(Refusal):
    """The request builds on an earlier response, which nobody has kept."""

    code = "chained_conversation_not_supported"

    def __init__(self) -> None:
        super().__init__(
            "previous_response_id is not supported: responses are not stored",
            hint="send the whole conversation as input",
        )


class KvUnservable(CapacityError):
    """One request alone needs more than the whole KV budget of the model."""

    def __init__(self, required_mb: int, budget_mb: int) -> None:
        super().__init__(
            f"this request needs {required_mb} MiB of KV cache, the model has {budget_mb} MiB",
            required_mb=required_mb,
            budget_mb=budget_mb,
            hint="shorten the prompt or lower max_tokens",
        )


class Overloaded(HelexaError):
    """More is asked for than may run or wait now; ``retry_after_s`` says when to come back."""

    status = 503
    type = "rate_limit_error"
    fault = "request"
    code = "rate_limit_exceeded"
    text = "model is busy; retry shortly"

    def __init__(self, retry_after_s: int | None, message: str | None = None) -> None:
        super().__init__(message or self.text)
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """As many requests wait as may."""

    text = "model is busy (admission queue full); retry shortly"


class SeatTimeout(Overloaded):
    """No seat became free in time."""

    text = "model is busy (no seat became free in time); retry shortly"


class AnonYield(Overloaded):
    """An anonymous caller stands back for identified ones."""

    text = "model is busy (identified callers go first); retry shortly"


class PrincipalCap(Overloaded):
    """One caller has as many requests open as it may."""

    status = 429
    text = "too many concurrent requests for this key; retry shortly"


class RateLimited(Overloaded):
    """A caller's budget for the current window is used up."""

    status = 429
    text = "rate limit exceeded; retry later"


class InsufficientQuota(Overloaded):
    """A caller's balance is used up: waiting does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str) -> None:
        super().__init__(None, message)


class Unavailable(HelexaError):
    """The request is fine, but cannot be served now; None: nobody knows when."""

    status = 503
    code: str | None = "service_unavailable"

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class ModelRecovering(Unavailable):
    """The model's process died and is being replaced."""

    code = "model_recovering"
    retry_after_s = 5

    def __init__(
        self, model_id: str, retry_after_s: int | None = None, message: str | None = None
    ) -> None:
        super().__init__(
            message or f"model '{model_id}' is recovering; retry shortly",
            retry_after_s=retry_after_s,
        )
        self.model_id = model_id

    @property
    def extras(self) -> dict[str, Any]:
        """Which model."""
        return {"model_id": self.model_id}


class ModelUnloaded(ModelRecovering):
    """The model was unloaded while the request waited or ran."""

    code = "model_unloaded"

    def __init__(self, model_id: str) -> None:
        super().__init__(model_id, message=f"model '{model_id}' was unloaded")


class LowMemory(Unavailable):
    """The device has too little free memory to begin a request."""

    code = "insufficient_vram"
    retry_after_s = 5
    text = "{free_mb} MiB of device memory are free, a request needs {required_mb} MiB"

    def __init__(self, free_mb: int, required_mb: int, retry_after_s: int | None = None) -> None:
        text = self.text.format(free_mb=free_mb, required_mb=required_mb)
        super().__init__(f"{text}; retry shortly", retry_after_s=retry_after_s)
        self.free_mb = free_mb
        self.required_mb = required_mb

    @property
    def extras(self) -> dict[str, Any]:
        """What there is and what is needed, in MiB."""
        return {"free_mb": self.free_mb, "required_mb": self.required_mb}


class KvTimeout(LowMemory):
    """The request's share of the KV budget did not become free in time."""

    text = "{free_mb} MiB of the KV budget are free, this request needs {required_mb} MiB"


class ShuttingDown(Unavailable):
    """The server is on its way out."""

    code = "shutting_down"

    def __init__(
        self, message: str = "the server is shutting down", *, retry_after_s: int = 15
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class NotBuilt(Unavailable):
    """A surface that this server knows of but does not have."""

    status = 501
    code = "not_implemented"


class NoHarness(Unavailable):
    """The daemon runs without the engine that the route needs."""

    code = None

    def __init__(self, harness: str) -> None:
        super().__init__(f"harness '{harness}' is not enabled on this neuron")


class CudaUnavailable(Unavailable):
    """The host's driver is unusable until somebody repairs it."""

    code = "cuda_unavailable"


class DriverSilent(Unavailable):
    """Nobody knows whether the host has cards, and no model is to be on the processor by chance."""

    def __init__(self) -> None:
        super().__init__(
            "the driver does not answer, so it is not known which cards this host has; "
            "nothing is loaded before it does",
            retry_after_s=5,
        )


class UnfinishedAnswer(HelexaError):
    """A generation stopped without saying why."""

    def __init__(self) -> None:
        super().__init__("the answer ended before it was finished")
