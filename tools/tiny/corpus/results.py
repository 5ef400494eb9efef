"""Answering from what a tool returned."""

from __future__ import annotations

import json
from typing import Any

from tools.tiny.corpus import known_tools, outcomes, tools
from tools.tiny.corpus.base import Check, Dice, Message, Sample, user, words

SKY = ("sunny", "rainy", "cloudy", "windy", "snowy", "foggy", "clear", "stormy")


def _call(dice: Dice, name: str, arguments: dict[str, Any], content: str) -> list[Message]:
    """Return the turns of a call and its result."""
    given: Any = arguments if dice.chance(0.5) else json.dumps(arguments)
    call = {"id": "call_0", "type": "function", "function": {"name": name, "arguments": given}}
    first: Message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [first, {"role": "tool", "tool_call_id": "call_0", "content": content}]


def make(dice: Dice) -> Sample:
    """Draw a request, the call that was made and its result."""
    if not dice.held_out and dice.chance(0.25):
        return _weather(dice)
    found = tools.offered(dice, dice.pick((1, 1, 2)))
    chosen = dice.pick(found)
    text, arguments = tools.request(dice, chosen)
    content, answer, needed = outcomes.draw(dice, chosen.noun)
    messages = (user(text), *_call(dice, chosen.name, arguments, content))
    schemas = tuple(tools.schema(dice, t) for t in found)
    thought = f"The tool answered. {answer}"
    return Sample("results", messages, answer, words(*needed), thought, schemas)


def _weather(dice: Dice) -> Sample:
    """Draw the result of one of the tools that examples use."""
    tool, text, arguments = known_tools.draw(dice)
    name = tool["function"]["name"]
    if "weather" in name:
        sky, degrees = dice.pick(SKY), dice.rng.randint(-9, 40)
        place = next(iter(arguments.values()))
        content, answer = dice.pick(
            (
                (sky, f"The weather in {place} is {sky}."),
                (
                    f"{sky}, {degrees} degrees",
                    f"The weather in {place} is {sky}, {degrees} degrees.",
                ),
                (
                    json.dumps({"weather": sky, "temperature": degrees}),
                    f"The weather in {place} is {sky} and the temperature is {degrees}.",
                ),
                (
                    json.dumps({"temperature": degrees, "condition": sky}),
                    f"The temperature in {place} is {degrees} and the condition is {sky}.",
                ),
                (
                    json.dumps({next(iter(arguments)): place, "temperature": degrees}),
                    f"The temperature in {place} is {degrees}.",
                ),
            )
        )
    elif name in ("send_message", "set_timer"):
        content, answer = dice.pick(
            (("ok", "Done."), ('{"status": "ok"}', "Done."), ("sent", "Done."))
        )
    else:
        value = outcomes.scalar(dice)
        content = dice.pick((str(value), json.dumps({"result": value})))
        answer = f"The {'time' if 'time' in name else 'result'} is {value!s}."
    messages = (user(text), *_call(dice, name, arguments, content))
    thought = f"The tool answered. {answer}"
    check: Check = words(answer.rstrip("."))
    return Sample("results", messages, answer, check, thought, (tool,))
