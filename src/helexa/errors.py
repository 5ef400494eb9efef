"""Every error helexa raises, as one tree.

Callers match the class or its ``code``; the text is for people. ``status`` is the HTTP status a
server answers with, ``type`` the error type of the OpenAI envelope, ``retry_after`` the seconds
after which to try again, ``extras`` what an envelope says beside them. ``fault`` is whose problem
it is: the ``request``'s, the ``load``'s, the accelerator's memory (``oom``), the ``device``'s, or
the ``engine``'s own end of life.

    HelexaError
    ├── InvalidRequest (also ValueError)     invalid_value, empty_prompt, …
    │   ├── PromptTooLong                    context_length_exceeded
    │   ├── TemplateError                    template_render_failed
    │   ├── VisionUnsupported                vision_unsupported
    │   ├── InvalidImage                     invalid_image
    │   ├── UnsupportedGrammar               unsupported_parameter
    │   ├── InvalidRequestBody               invalid_request_body
    │   ├── ModelNotFound                    model_not_found
    │   ├── WrongModality                    wrong_modality
    │   ├── InvalidApiKey                    invalid_api_key
    │   └── RejectedRequest                  refused before any handler: helexa/http/refusals.py
    ├── CapacityError                        prompt_too_long_for_vram
    ├── LoadError
    │   ├── PreflightError                   its kind
    │   ├── DownloadError
    │   ├── CheckpointError
    │   └── UnsupportedModel
    ├── NumericalError
    ├── OutOfMemory                          insufficient_vram
    ├── DeviceError                          model_recovering
    │   ├── StepTimeout
    │   └── ProtocolError
    ├── EngineLost                           model_recovering
    ├── EngineClosed                         model_unloaded
    ├── RateLimited                          rate_limit_exceeded (the server is full)
    │   └── TooManyRequests                  rate_limit_exceeded (this caller is)
    ├── QuotaExceeded                        insufficient_quota
    ├── ServiceUnavailable                   service_unavailable
    │   └── ShuttingDown                     shutting_down
    ├── BindError
    └── UpstreamError                        upstream_connection_error
        ├── UpstreamUnreachable              upstream_connection_error (nothing was sent)
        ├── UpstreamTimeout                  upstream_timeout
        └── UpstreamMalformed                upstream_malformed_response
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

Fault = Literal["request", "load", "oom", "device", "engine"]


class HelexaError(Exception):
    """Root of the tree. The text states the fact; ``hint`` says what to do about it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    fault: ClassVar[Fault] = "engine"
    extra_fields: ClassVar[tuple[str, ...]] = ()
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None

    def __init__(self, message: str, *, hint: str = "", retry_after: int | None = None) -> None:
        self.message = message
        self.hint = hint
        if retry_after is not None:
            self.retry_after = retry_after
        super().__init__(f"{message}; {hint}" if hint else message)

    @property
    def extras(self) -> dict[str, object]:
        """What an envelope says beside message, type, code and param."""
        return {name: getattr(self, name) for name in self.extra_fields}


class InvalidRequest(HelexaError, ValueError):
    """A request that cannot be run as asked; ``param`` names the offending field."""

    status = 400
    type = "invalid_request_error"
    fault = "request"
    code = "invalid_value"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        if code is not None:
            self.code = code


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context, whatever is free."""

    code = "context_length_exceeded"
    extra_fields = ("prompt_len", "max")

    def __init__(self, prompt_len: int, max: int) -> None:
        super().__init__(
            f"the prompt has {prompt_len} tokens, at most {max} fit",
            param="prompt",
            hint="shorten the prompt or load the model with a larger max_context",
        )
        self.prompt_len = prompt_len
        self.max = max


class TemplateError(InvalidRequest):
    """The chat template refused the messages, or cannot express them."""

    code = "template_render_failed"


class VisionUnsupported(InvalidRequest):
    """Images were sent to a model without a vision tower."""

    code = "vision_unsupported"


class InvalidImage(InvalidRequest):
    """An image that cannot be read, or images that do not match the prompt."""

    code = "invalid_image"


class UnsupportedGrammar(InvalidRequest):
    """Constrained output was asked for in a form that is not supported."""

    code = "unsupported_parameter"


class InvalidRequestBody(InvalidRequest):
    """Well-formed JSON of the wrong shape."""

    status = 422
    code = "invalid_request_body"


class ModelNotFound(InvalidRequest):
    """No such model is loaded."""

    status = 404
    code = "model_not_found"
    extra_fields = ("model_id",)

    def __init__(self, model_id: str, *, hint: str = "") -> None:
        super().__init__(f"model '{model_id}' not found", hint=hint)
        self.model_id = model_id


class WrongModality(InvalidRequest):
    """The model is of a kind that this route does not serve."""

    status = 422
    code = "wrong_modality"
    extra_fields = ("model_id", "suggestion")

    def __init__(self, message: str, *, model_id: str, suggestion: str) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.suggestion = suggestion


class InvalidApiKey(InvalidRequest):
    """The key is missing or unknown."""

    status = 401
    code = "invalid_api_key"


class CapacityError(HelexaError):
    """More memory is needed than the KV cache was given."""

    status = 400
    type = "invalid_request_error"
    fault = "request"
    code = "prompt_too_long_for_vram"
    extra_fields = ("required_mb", "budget_mb")

    def __init__(self, message: str, *, required_mb: int, budget_mb: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.required_mb = required_mb
        self.budget_mb = budget_mb


class LoadError(HelexaError):
    """A model could not be found, fetched, read or built."""

    fault = "load"


class PreflightError(LoadError):
    """A model was refused before any weight was read; ``kind`` is the machine-readable reason."""

    status = 400
    type = "invalid_request_error"

    def __init__(
        self, kind: str, message: str, *, available: Sequence[str] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.code = kind
        self.available = tuple(available)


class DownloadError(LoadError):
    """A file could not be fetched whole."""

    status = 502


class CheckpointError(LoadError):
    """A checkpoint is incomplete, damaged or not what its config says."""


class UnsupportedModel(LoadError):
    """The checkpoint is of an architecture, or asks for a feature, that is not implemented."""

    status = 400
    type = "invalid_request_error"


class NumericalError(HelexaError):
    """The model produced NaN or +inf for one request; other requests are not affected."""

    fault = "request"


class OutOfMemory(HelexaError):
    """The device ran out of memory."""

    status = 503
    fault = "oom"
    code = "insufficient_vram"
    extra_fields = ("free_mb", "required_mb")
    retry_after = 5

    def __init__(self, message: str, *, required_mb: int, free_mb: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.required_mb = required_mb
        self.free_mb = free_mb


class DeviceError(HelexaError):
    """The accelerator failed; the engine that saw it is finished and must be replaced."""

    status = 503
    fault = "device"
    code = "model_recovering"
    retry_after = 5


class StepTimeout(DeviceError):
    """A step missed its deadline."""


class ProtocolError(DeviceError):
    """A child process answered something that its parent does not understand."""


class EngineLost(HelexaError):
    """The engine died with this request in flight."""

    status = 503
    code = "model_recovering"
    retry_after = 5


class EngineClosed(HelexaError):
    """The model was closed while, or before, this request ran."""

    status = 503
    code = "model_unloaded"
    retry_after = 5


class RateLimited(HelexaError):
    """All seats are taken, and the queue is full or was too slow."""

    status = 503
    type = "rate_limit_error"
    fault = "request"
    code = "rate_limit_exceeded"


class TooManyRequests(RateLimited):
    """This caller has as many requests running as one caller may."""

    status = 429


class QuotaExceeded(HelexaError):
    """The caller's budget is used up."""

    status = 429
    type = "insufficient_quota"
    fault = "request"
    code = "insufficient_quota"


class ServiceUnavailable(HelexaError):
    """The server cannot take this now."""

    status = 503
    code = "service_unavailable"


class ShuttingDown(ServiceUnavailable):
    """The server is going away; another one, or the next one, may answer."""

    code = "shutting_down"
    retry_after = 15


class BindError(HelexaError):
    """The listen address cannot be used."""


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
