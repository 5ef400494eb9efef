"""The dialects that requests come in, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass

from helexa.gateway.proxy import observer
from helexa.gateway.proxy.observer import Dialect


@dataclass(frozen=True, slots=True)
class Wire:
    """One API: its name in the log, its path on a neuron, how its answers tell of tokens.

    ``limits`` are what its bodies call the most tokens to generate, the first one first.
    """

    name: str
    path: str
    dialect: Dialect = observer.CHAT
    limits: tuple[str, ...] = ("max_completion_tokens", "max_tokens")


CHAT = Wire("openai-chat", "/v1/chat/completions")
COMPLETIONS = Wire(
    "openai-completions", "/v1/completions", observer.COMPLETIONS, limits=("max_tokens",)
)
RESPONSES = Wire(
    "openai-responses", "/v1/responses", observer.RESPONSES, limits=("max_output_tokens",)
)
IMAGES = Wire("openai-images", "/v1/images/generations")
MESSAGES = Wire("anthropic", CHAT.path)
