"""What the user of a known client can do about a conversation that is too long."""

from __future__ import annotations

ADVICE_HEADER = "x-helexa-advice"
SUMMARIZE = "reduce the conversation/context size or summarize earlier turns before resending"
ADVICE = {
    "litellm": (
        "litellm forwards the full context; lower the configured context window or enable "
        "client-side compaction"
    ),
    "agent-zero": SUMMARIZE,
    "agent zero": SUMMARIZE,
    "zed": "reduce the assistant context window in Zed's settings",
}
"""By a part of the User-Agent, in lower case; the first that fits."""


def advice_for(user_agent: str | None) -> str:
    """Advice for a client by its User-Agent; empty if there is none."""
    name = (user_agent or "").lower()
    return next((advice for part, advice in ADVICE.items() if part in name), "")
