"""Every error helexa raises, as one tree.

Callers match the class or its ``code``; the text is for people. ``status`` is the HTTP status a
server answers with, ``type`` the error type of the OpenAI envelope, ``fault`` whose problem it is:
the ``request``'s, the ``load``'s, the accelerator's memory (``oom``), the ``device``'s, or the
``engine``'s own end of life. What only servers raise is in `helexa.refusals`.

    HelexaError
    ├── InvalidRequest (also ValueError)     invalid_value, empty_prompt, …
    │   ├── PromptTooLong                    context_length_exceeded
    │   ├── TemplateError                    template_render_failed
    │   ├── VisionUnsupported                vision_unsupported
    │   ├── InvalidImage                     invalid_image
    │   └── UnsupportedGrammar               unsupported_parameter
    ├── CapacityError                        prompt_too_long_for_vram
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
    ├── EngineClosed                         model_unloaded
    └── refusals: Refusal, Overloaded, Unavailable, UnfinishedAnswer (and some of InvalidRequest)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

Fault = Literal["request", "load", "oom", "device", "engine"]


class HelexaError(Exception):
    """Root of the tree. The text states the fact; ``hint`` says what to do about it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    fault: ClassVar[Fault] = "engine"
    code: str | None = None
    retry_after_s: int | None = None
    """When a server's client may try again; None where that would not help."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}; {hint}" if hint else message)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pools of processes: what most classes are made from is not what ``args`` holds."""
        return _restored, (type(self), self.args, self.__dict__)

    @property
    def wire_message(self) -> str:
        """The text for a server's client, who has no Python to mend."""
        return str(self)

    @property
    def extras(self) -> dict[str, Any]:
        """The facts that a server tells beside the message, by name, as JSON values."""
        return {}


def _restored(kind: type[HelexaError], args: tuple[Any, ...], facts: dict[str, Any]) -> HelexaError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


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

    def __init__(self, prompt_len: int, max: int, *, hint: str = "shorten the prompt") -> None:
        super().__init__(
            f"the prompt has {prompt_len} tokens, at most {max} fit", param="prompt", hint=hint
        )
        self.prompt_len = prompt_len
        self.max = max

    @property
    def wire_message(self) -> str:
        """In the words that clients look for when they want to shorten a conversation."""
        return (
            f"This model's maximum context length is {self.max} tokens. However, your messages "
            f"resulted in {self.prompt_len} tokens. Please reduce the length of the messages."
        )

    @property
    def extras(self) -> dict[str, Any]:
        """Both lengths, in tokens."""
        return {"prompt_len": self.prompt_len, "max": self.max}


class TemplateError(InvalidRequest):
    """The chat template refused the messages, or cannot express them."""

    status = 422
    code = "template_render_failed"

    @property
    def wire_message(self) -> str:
        """What failed, without the hint, which is for who loads the model."""
        return f"chat template could not render this request: {self.message}"


class VisionUnsupported(InvalidRequest):
    """Images were sent to a model without a vision tower; a server adds the ``model_id``."""

    code = "vision_unsupported"
    model_id: str | None = None

    @property
    def extras(self) -> dict[str, Any]:
        """Which model, and what to do instead."""
        found = {"model_id": self.model_id, "suggestion": self.hint}
        return {name: value for name, value in found.items() if value}


class InvalidImage(InvalidRequest):
    """An image that cannot be read, or images that do not match the prompt."""

    code = "invalid_image"


class UnsupportedGrammar(InvalidRequest):
    """Constrained output was asked for in a form that is not supported."""

    code = "unsupported_parameter"


class CapacityError(HelexaError):
    """More memory is needed than the KV cache was given."""

    status = 413
    type = "invalid_request_error"
    fault = "request"
    code = "prompt_too_long_for_vram"

    def __init__(self, message: str, *, required_mb: int, budget_mb: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.required_mb = required_mb
        self.budget_mb = budget_mb

    @property
    def extras(self) -> dict[str, Any]:
        """What is needed and what there is, in MiB."""
        return {"required_mb": self.required_mb, "budget_mb": self.budget_mb}


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
    retry_after_s = 5

    def __init__(self, message: str, *, required_mb: int, free_mb: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.required_mb = required_mb
        self.free_mb = free_mb

    @property
    def extras(self) -> dict[str, Any]:
        """What there is and what is needed, in MiB."""
        return {"free_mb": self.free_mb, "required_mb": self.required_mb}


class DeviceError(HelexaError):
    """The accelerator failed; the engine that saw it is finished and must be replaced.

    ``out_of_memory``: it did so by having none left, time and again.
    """

    status = 503
    fault = "device"
    code = "model_recovering"
    retry_after_s = 5

    def __init__(self, message: str, *, hint: str = "", out_of_memory: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.out_of_memory = out_of_memory


class StepTimeout(DeviceError):
    """A step missed its deadline."""


class ProtocolError(DeviceError):
    """A child process answered something that its parent does not understand."""


class EngineLost(HelexaError):
    """The engine died with this request in flight."""

    status = 503
    code = "model_recovering"
    retry_after_s = 5


class EngineClosed(HelexaError):
    """The model was closed while, or before, this request ran."""

    status = 503
    code = "model_unloaded"
    retry_after_s = 5
