"""Why the gateway itself does not answer a request: routing, placement, loading.

HelexaError
├── Refusal
│   ├── MissingModelField        400 missing_model_field
│   ├── OverContext              400 context_length_exceeded
│   ├── InvalidAnthropicBody     400 invalid_anthropic_body
│   ├── ThreadsNotKept           400 thread_unsupported_request
│   └── UnknownModel             404 model_not_found
├── Unavailable                  503 service_unavailable
│   ├── NoHealthyNodes, Recovering, FeasibleNodeUnhealthy, NoServableReplica, Loading
│   ├── NoFeasibleNeuron         404
│   ├── ColdLoadFailed           503, or 404 where the neuron says it never can
│   ├── EndpointResolveFailed
│   ├── AuthorityUnavailable, LedgerUnavailable
│   └── OutOfBuffers
├── EvictionFailed               500
├── LedgerUnusable               at start only
└── NeuronCallFailed             never answered: whoever called knows what it means
"""

from __future__ import annotations

from typing import Any

from helexa.errors import HelexaError
from helexa.refusals import Refusal, ShuttingDown, Unavailable

MOST_TOLD = 512
"""Characters of a name that nobody knows: it may be as long as a body."""


class MissingModelField(Refusal):
    """The body is not a JSON object with a `model`."""

    code = "missing_model_field"

    def __init__(self) -> None:
        super().__init__("missing 'model' field in request body")


class OverContext(Refusal):
    """The prompt is, by a careful estimate, longer than the model's context.

    ``advice`` is for the log and a header: what the client at hand can do about it.
    """

    code = "context_length_exceeded"

    def __init__(self, estimated: int, limit: int, *, anthropic: bool = False, advice: str = ""):
        if anthropic:
            text = f"prompt is too long: {estimated} tokens > {limit} maximum"
        else:
            text = (
                f"This model's maximum context length is {limit} tokens. Your request is estimated "
                f"at ~{estimated} tokens. Please reduce the length of the messages."
            )
        super().__init__(text)
        self.estimated = estimated
        self.limit = limit
        self.advice = advice

    @property
    def extras(self) -> dict[str, Any]:
        """The context and the estimate, in tokens."""
        return {"max": self.limit, "estimated_prompt_tokens": self.estimated}


class InvalidAnthropicBody(Refusal):
    """A body that is not a request of the messages API; the text says where and what."""

    code = "invalid_anthropic_body"

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"invalid Anthropic request body: {where}: {what}")


class ThreadsNotKept(Refusal):
    """The client wants to send only what is new, and the server to remember the rest.

    ``extras`` are what Anthropic's client looks at: its loops over tools then send everything.
    """

    code = "thread_unsupported_request"

    def __init__(self) -> None:
        super().__init__("threads are not kept here; send all messages, without 'thread'")

    @property
    def extras(self) -> dict[str, Any]:
        """What cannot be had."""
        return {"details": {"error_code": self.code, "unsupported": ["thread"]}}


class UnknownModel(Refusal):
    """Neither a node nor the catalogue has this model."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        told = model if len(model) <= MOST_TOLD else f"{model[:MOST_TOLD]}…"
        super().__init__(f"model '{told}' not found on any node and not in catalogue")


class NoHealthyNodes(Unavailable):
    """No neuron answers."""

    retry_after_s = 5

    def __init__(self) -> None:
        super().__init__("no healthy nodes available")


class Recovering(Unavailable):
    """The model's only replicas are being brought back."""

    retry_after_s = 2

    def __init__(self, model: str, node: str) -> None:
        super().__init__(
            f"model '{model}' is recovering on node '{node}' (device context rebuild in progress) "
            "— retry shortly"
        )


class FeasibleNodeUnhealthy(Unavailable):
    """A neuron that could serve the model does not answer now."""

    retry_after_s = 3

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model '{model}' is feasible on a neuron that is currently unhealthy — retry shortly"
        )


class NoFeasibleNeuron(Unavailable):
    """No healthy neuron has the devices that the model needs."""

    status = 404

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model '{model}' is in the catalogue but no healthy neuron's topology satisfies its "
            "constraints"
        )


class NoServableReplica(Unavailable):
    """The model is loaded, but its node says that it cannot take requests."""

    retry_after_s = 5

    def __init__(self, model: str, node: str, reason: str) -> None:
        super().__init__(
            f"model '{model}' is resident on node '{node}' but cannot be served: {reason} "
            "— retry shortly"
        )


class Loading(Unavailable):
    """The model is on its way."""

    retry_after_s = 10

    def __init__(self, model: str, node: str) -> None:
        super().__init__(f"model '{model}' is still loading on node '{node}' — retry shortly")


class ColdLoadFailed(Unavailable):
    """A neuron did not load the model; ``status`` is 404 where it refused it for good.

    ``retry_after_s`` is what is left of the time for which the neuron is left alone.
    """

    def __init__(
        self,
        model: str,
        node: str,
        cause: str,
        *,
        refused: bool = False,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(
            f"cold-load of '{model}' on '{node}' failed: {cause}",
            retry_after_s=None if refused else retry_after_s,
        )
        self.node = node
        self.refused = refused
        self.status = 404 if refused else 503  # type: ignore[misc]  # a refusal is for good


class EndpointResolveFailed(Unavailable):
    """The node does not say where the model answers; ``missing``: it says that it is not there."""

    retry_after_s = 2

    def __init__(self, model: str, node: str, *, missing: bool = False) -> None:
        super().__init__(
            f"failed to resolve inference endpoint for model '{model}' on node '{node}'"
        )
        self.missing = missing


class AuthorityUnavailable(Unavailable):
    """Who knows the keys does not answer."""

    def __init__(self, retry_after_s: int | None = 5) -> None:
        super().__init__(
            "entitlement authority temporarily unavailable", retry_after_s=retry_after_s
        )


class LedgerUnavailable(Unavailable):
    """Budgets cannot be read or written now."""

    retry_after_s = 5

    def __init__(self) -> None:
        super().__init__("entitlement ledger temporarily unavailable")


class LedgerUnusable(HelexaError):
    """The ledger cannot be opened, so the gateway cannot start; ``store`` is free of secrets."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"entitlements.ledger: cannot open {store}: {reason}")
        self.store = store


class Draining(ShuttingDown):
    """The gateway takes nothing new, and ends what takes too long."""

    def __init__(self) -> None:
        super().__init__("gateway is shutting down", retry_after_s=5)


class OutOfBuffers(Unavailable):
    """As many bytes of request bodies are held as may be."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("gateway is at its memory limit")


class EvictionFailed(HelexaError):
    """A neuron did not unload a model."""


class StillBusy(EvictionFailed):
    """What could be unloaded is answering requests."""


class NeuronCallFailed(HelexaError):
    """A call to a neuron's control plane got no usable answer.

    ``answered``: the status, if it was one that says no; then ``body`` is what came with it.
    """

    def __init__(self, cause: str, *, answered: int | None = None, body: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.answered = answered
        self.body = body
