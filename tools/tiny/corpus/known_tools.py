"""The tools that examples and tutorials use, so that a first try works; never part of the tests."""

from __future__ import annotations

from typing import Any

from tools.tiny.corpus.base import Dice, Tool

CITIES = tuple(
    """Paris London Berlin Rome Madrid Tokyo Oslo Vienna Athens Cairo Boston Chicago Dallas Delhi
    Dublin Geneva Hamburg Helsinki Kyoto Lima Lisbon Milan Moscow Munich Nairobi Prague Seoul
    Sydney Toronto Warsaw Zurich Lomar Karst Veldin Pellam Tarn Osk""".split()
)
WEATHER = (
    "What is the weather in {x}?",
    "What's the weather in {x}?",
    "How is the weather in {x}?",
    "What is the weather like in {x}?",
    "What's the weather like in {x} today?",
    "Weather in {x}?",
    "Is it raining in {x}?",
    "Tell me the weather in {x}.",
    "Get the weather for {x}.",
    "Will it rain in {x}?",
)
TIME = ("What time is it in {x}?", "What is the time in {x}?", "Tell me the time in {x}.")
SEARCH = ("Search for {x}.", "Search the web for {x}.", "Look up {x}.", "Find {x} on the web.")
ADD = ("Add {a} and {b}.", "What is {a} + {b}?", "What is {a} plus {b}?", "Sum {a} and {b}.")
MULTIPLY = ("Multiply {a} and {b}.", "What is {a} times {b}?", "What is {a} * {b}?")
TIMER = ("Set a timer for {a} minutes.", "Start a timer of {a} minutes.", "Timer for {a} minutes.")
PURPOSES = ("weather", "timer", "time", "search", "add", "multiply", "message")
CALCULATORS = frozenset(("add", "add_numbers", "multiply", "calculate", "calculator"))


def _tool(name: str, description: str, **kinds: str) -> Tool:
    """Return a tool whose parameters are all required."""
    properties = {key: {"type": kind} for key, kind in kinds.items()}
    body = {"type": "object", "properties": properties, "required": list(kinds)}
    function = {"name": name, "description": description, "parameters": body}
    return {"type": "function", "function": function}


def purpose(tool: Tool) -> str:
    """Return what one of these tools is for: no request may fit two that are offered together."""
    about = tool["function"]["description"].lower()
    return next(purpose for purpose in PURPOSES if purpose in about)


def _place(dice: Dice) -> str:
    return dice.pick(CITIES) if dice.chance(0.6) else dice.name()


def draw(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    """Return a tool, a request for it and the arguments of the call."""
    return dice.pick((_weather, _weather, _weather, _time, _search, _numbers, _timer, _send))(dice)


def _weather(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    place, key = _place(dice), dice.pick(("city", "city", "location", "place"))
    name = dice.pick(("get_weather", "get_weather", "weather", "get_current_weather"))
    about = (
        "Get the weather in a city.",
        "Get the current weather for a city.",
        "Get the weather.",
    )
    tool = _tool(name, dice.pick((*about, "Return the weather of a city.")), **{key: "string"})
    if dice.chance(0.4):
        schema = tool["function"]["parameters"]["properties"][key]
        schema["description"] = dice.pick(("The city", "City name", "The city, e.g. Paris"))
    arguments = {key: place}
    text = dice.pick(WEATHER).format(x=place)
    if dice.chance(0.2):
        unit = dice.pick(("celsius", "fahrenheit"))
        extra = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        tool["function"]["parameters"]["properties"]["unit"] = extra
        if dice.chance(0.5):
            text = dice.pick(WEATHER[:5]).format(x=place)[:-1].removesuffix(" today")
            text, arguments = f"{text} in {unit}?", {**arguments, "unit": unit}
    return tool, text, arguments


def _time(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    place, key = _place(dice), dice.pick(("city", "timezone", "place"))
    tool = _tool(
        dice.pick(("get_time", "current_time")), "Get the time in a city.", **{key: "string"}
    )
    return tool, dice.pick(TIME).format(x=place), {key: place}


def _search(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    query = dice.word() if dice.chance(0.5) else f"{dice.word()} {dice.word()}"
    tool = _tool(
        dice.pick(("search", "web_search", "search_web")), "Search the web.", query="string"
    )
    return tool, dice.pick(SEARCH).format(x=query), {"query": query}


def _numbers(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    a, b = dice.rng.randint(0, 999), dice.rng.randint(0, 999)
    if dice.chance(0.6):
        name = dice.pick(("add", "add_numbers"))
        tool = _tool(name, "Add two numbers.", a="integer", b="integer")
        return tool, dice.pick(ADD).format(a=a, b=b), {"a": a, "b": b}
    tool = _tool("multiply", "Multiply two numbers.", a="integer", b="integer")
    return tool, dice.pick(MULTIPLY).format(a=a, b=b), {"a": a, "b": b}


def _timer(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    minutes = dice.rng.randint(1, 90)
    tool = _tool("set_timer", "Set a timer.", minutes="integer")
    return tool, dice.pick(TIMER).format(a=minutes), {"minutes": minutes}


def _send(dice: Dice) -> tuple[Tool, str, dict[str, Any]]:
    to, text = dice.name(), " ".join(dice.word() for _ in range(dice.rng.randint(1, 4)))
    tool = _tool("send_message", "Send a message to someone.", to="string", text="string")
    forms = ('Send "{t}" to {n}.', "Send a message to {n}: {t}", 'Tell {n} "{t}".')
    return tool, dice.pick(forms).format(n=to, t=text), {"to": to, "text": text}
