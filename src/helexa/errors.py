"""Every error helexa raises, as one tree.

Callers match the class or its ``code``; the text is for people. ``status`` is the HTTP status a
server answers with, ``type`` the error type of the OpenAI envelope, ``retry_after_s`` in how many
seconds another try may succeed, ``fault`` whose problem it is: the ``request``'s, the ``load``'s,
the accelerator's memory (``oom``), the ``device``'s, or the ``engine``'s own end of life.

    HelexaError
    ├── InvalidRequest (also ValueError)     invalid_value, empty_prompt, …
    │   ├── PromptTooLong                    context_length_exceeded
    │   ├── TemplateError                    template_render_failed
    │   ├── VisionUnsupported                vision_unsupported
    │   ├── InvalidImage                     invalid_image
    │   └── UnsupportedGrammar               unsupported_parameter
    ├── CapacityError                        prompt_too_long_for_vram
    │   └── KvUnservable
    ├── Overloaded                           rate_limit_exceeded
    │   ├── QueueFull
    │   ├── PrincipalCap
    │   ├── AnonymousYield
    │   └── SeatTimeout
    ├── InsufficientMemory                   insufficient_vram
    │   ├── KvTimeout
    │   └── BelowMemoryFloor
    ├── ShuttingDown                         shutting_down
    ├── ModelUnavailable
    │   ├── ModelRecovering                  model_recovering
    │   └── ModelUnloaded                    model_unloaded
    ├── ConfigError
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
    └── EngineClosed                         model_unloaded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

Fault = Literal["request", "load", "oom", "device", "engine"]


class HelexaError(Exception):
    """Root of the tree. The text states the fact; ``hint`` says what to do about it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    fault: ClassVar[Fault] = "engine"
    code: str | None = None
    retry_after_s: int | None = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}; {hint}" if hint else message)


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


class CapacityError(HelexaError):
    """More memory is needed than the KV cache was given."""

    status = 400
    type = "invalid_request_error"
    fault = "request"
    code = "prompt_too_long_for_vram"

    def __init__(self, message: str, *, required_mb: int, budget_mb: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.required_mb = required_mb
        self.budget_mb = budget_mb


class KvUnservable(CapacityError):
    """A request that would not fit the KV cache even if it ran alone."""

    status = 413

    def __init__(self, *, required_mb: int, budget_mb: int) -> None:
        super().__init__(
            f"the request needs {required_mb} MiB of KV cache, the model has {budget_mb} MiB",
            required_mb=required_mb,
            budget_mb=budget_mb,
            hint="shorten the prompt or lower max_tokens",
        )


class Overloaded(HelexaError):
    """More is asked of a model than it may take on now; ``retry_after_s`` is a guess."""

    status = 503
    type = "rate_limit_error"
    fault = "request"
    code = "rate_limit_exceeded"
    text: ClassVar[str] = "model is busy; retry shortly"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(self.text)
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """Every seat and every place in the queue is taken."""

    text = "model is busy (admission queue full); retry shortly"


class PrincipalCap(Overloaded):
    """One caller has as many requests running and queued as one may have."""

    status = 429
    text = "too many concurrent requests for this key; retry shortly"


class AnonymousYield(Overloaded):
    """What is free is kept for callers who say who they are."""

    text = "model is busy (kept for identified callers); retry shortly"


class SeatTimeout(Overloaded):
    """No seat became free in time."""

    text = "model is busy (no seat became free in time); retry shortly"


class InsufficientMemory(HelexaError):
    """Too little of the device's memory is free just now."""

    status = 503
    fault = "request"
    code = "insufficient_vram"

    def __init__(
        self, message: str, *, required_mb: int, free_mb: int, retry_after_s: int = 5
    ) -> None:
        super().__init__(message, hint="retry shortly")
        self.required_mb = required_mb
        self.free_mb = free_mb
        self.retry_after_s = retry_after_s


class KvTimeout(InsufficientMemory):
    """The KV cache that a request needs did not become free in time."""

    def __init__(self, *, required_mb: int, free_mb: int, retry_after_s: int) -> None:
        super().__init__(
            f"the request needs {required_mb} MiB of KV cache, {free_mb} MiB are free",
            required_mb=required_mb,
            free_mb=free_mb,
            retry_after_s=retry_after_s,
        )


class BelowMemoryFloor(InsufficientMemory):
    """Less of the device's memory is free than must stay free."""

    def __init__(self, *, free_mb: int, floor_mb: int) -> None:
        super().__init__(
            f"{free_mb} MiB of device memory are free, {floor_mb} MiB must be",
            required_mb=floor_mb,
            free_mb=free_mb,
        )


class ShuttingDown(HelexaError):
    """The server is going away and takes on nothing new."""

    status = 503
    code = "shutting_down"
    retry_after_s = 15

    def __init__(self) -> None:
        super().__init__("the server is shutting down", hint="retry elsewhere, or in a while")


class ModelUnavailable(HelexaError):
    """A model that cannot take a request for the moment."""

    status = 503
    what: ClassVar[str] = "unavailable"

    def __init__(self, model_id: str, *, retry_after_s: int = 5) -> None:
        super().__init__(f"model {model_id!r} {self.what}", hint="retry shortly")
        self.model_id = model_id
        self.retry_after_s = retry_after_s


class ModelRecovering(ModelUnavailable):
    """The model's process was lost and is being replaced."""

    code = "model_recovering"
    what = "is recovering from a fault"


class ModelUnloaded(ModelUnavailable):
    """The model was unloaded while the request waited or ran."""

    code = "model_unloaded"
    what = "was unloaded"


class ConfigError(HelexaError):
    """A configuration that cannot be used; the text has one line for each of ``problems``."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        lines = [f"failed to load config from '{path}': {problem}" for problem in problems]
        super().__init__("\n".join(lines))
        self.path = path
        self.problems = tuple(problems)


class LoadError(HelexaError):
    """A model could not be found, fetched, read or built."""

    fault = "load"


class PreflightError(LoadError):
    """A model was refused before any weight was read; ``kind`` is the machine-readable reason.

    ``details`` is plain data that says more, by names which depend on the kind.
    """

    status = 400
    type = "invalid_request_error"

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        available: Sequence[str] = (),
        hint: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.code = kind
        self.available = tuple(available)
        self.details = dict(details or {})


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

    def __init__(self, message: str, *, required_mb: int, free_mb: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.required_mb = required_mb
        self.free_mb = free_mb


class DeviceError(HelexaError):
    """The accelerator failed; the engine that saw it is finished and must be replaced."""

    status = 503
    fault = "device"
    code = "model_recovering"


class StepTimeout(DeviceError):
    """A step missed its deadline."""


class ProtocolError(DeviceError):
    """A child process answered something that its parent does not understand."""


class EngineLost(HelexaError):
    """The engine died with this request in flight."""

    status = 503
    code = "model_recovering"


class EngineClosed(HelexaError):
    """The model was closed while, or before, this request ran."""

    status = 503
    code = "model_unloaded"


def whole_chain(error: BaseException) -> str:
    """What happened and what it came from, outermost first, in one line."""
    texts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        text = " ".join(str(link).split()) or type(link).__name__
        if not any(text in above for above in texts):
            texts.append(text)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return ": ".join(texts)
