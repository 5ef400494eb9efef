"""What the clients of this folder ask, and with which keys."""

from __future__ import annotations

from typing import Any

GOOD, OTHER, THIRD, SPENT, ROLLING = "sk-good", "sk-other", "sk-third", "sk-spent", "sk-rolling"
SMALL = "small"
"""The alias of the built-in model."""
GREEDY: dict[str, Any] = {"temperature": 0}
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": CITY,
}
SUNNY = "sunny, 21 degrees"
PONG = "You must reply with exactly the word PONG and nothing else."
PICTURE = "AAAA"
"""The data of an image, which nobody gets to look at: the built-in model reads text only."""


def user(text: Any) -> Any:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


HELLO, SUM, PARIS = user("Hello!"), user("What is 12 + 7?"), user("What is the weather in Paris?")
TOO_LONG = user("word " * 4000)
