"""Tool calls: invented tools in OpenAI's JSON-schema form, and requests that one of them fits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from tools.tiny.corpus import arithmetic, greetings, known_tools, outcomes, vocabulary, world
from tools.tiny.corpus.base import (
    Check,
    Dice,
    Exchange,
    Message,
    Sample,
    Tool,
    turns,
    user,
    words,
)

VERBS = tuple(
    """get find show check fetch read set send book order start stop open create delete play
    list update search count move save add remove close call pay rent buy sell track look""".split()
)
PREPOSITIONS = ("for", "of", "in", "with", "at", "to", "from", "on")
DESCRIPTIONS = (
    "{V} the {n}.",
    "{V} a {n}.",
    "{V}s the {n}.",
    "{V} the {n} for the user.",
    "Use this to {v} the {n}.",
    "{V} {n}",
    "{V} the {n} by {p}.",
    "This tool can {v} a {n}.",
)
REQUESTS = (
    "{V} the {n} {a}.",
    "{V} a {n} {a}.",
    "{V} the {n}, {a}.",
    "I want to {v} the {n} {a}.",
    "I need to {v} a {n} {a}.",
    "{V} {n} {a}",
    "Can you {v} the {n} {a}?",
    "Please {v} the {n} {a}.",
    "Use {t} {a}.",
    "Call {t} {a}.",
    "I'd like to {v} the {n} {a}.",
    "I have to {v} the {n} {a}.",
    "Let us {v} a {n} {a}.",
    "Help me {v} the {n} {a}.",
    "{V} my {n} {a}.",
    "Use the {t} tool {a}.",
    "Run {t} {a}.",
    "The tool {t} {a}.",
)
REQUESTS_HELD_OUT = (
    "Could you {v} the {n} {a}?",
    "I would like to {v} the {n} {a}.",
    "Please {v} a {n} {a}.",
    "Use the tool {t} {a}.",
)
LOOKUPS = (
    "What is the {n} {a}?",
    "What's the {n} {a}?",
    "Tell me the {n} {a}.",
    "Give me the {n} {a}.",
    "How is the {n} {a}?",
    "I need the {n} {a}.",
    "Show me the {n} {a}.",
    "I'd like the {n} {a}.",
    "Do you know the {n} {a}?",
    "Find out the {n} {a}.",
    "Can you show me the {n} {a}?",
    "I want the {n} {a}.",
)
LOOKUPS_HELD_OUT = (
    "I want to know the {n} {a}.",
    "Please tell me the {n} {a}.",
    "Can you give me the {n} {a}?",
)
GETTERS = frozenset("get find show check fetch read look search".split())
NO_TOOL = "I have no tool for that."


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an invented tool with the value a request gives it."""

    name: str
    kind: str
    value: Any
    schema: dict[str, Any]
    optional: bool = False

    @property
    def spoken(self) -> str:
        """The parameter's name as people say it."""
        return self.name.replace("_", " ")

    @property
    def shown(self) -> str:
        """The value as it stands in a request."""
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Invented:
    """One invented tool."""

    name: str
    verb: str
    noun: str
    description: str
    parameters: tuple[Parameter, ...] = field(default=())


def _noun(dice: Dice) -> str:
    """Return what a tool is about."""
    return dice.on_side(
        lambda: dice.pick(vocabulary.COMMON) if dice.chance(0.65) else dice.syllables(2)
    )


def _value(dice: Dice, kind: str) -> Any:
    """Return a value of a JSON type, of this side of the split where it is text."""
    if kind == "integer":
        return dice.rng.randint(0, 99) if dice.chance(0.7) else dice.rng.randint(100, 5000)
    if kind == "number":
        return round(dice.rng.uniform(0, 100), 1)
    roll = dice.rng.random()
    if roll < 0.4:
        return dice.name()
    if roll < 0.72:
        return dice.word()
    if roll < 0.82:
        return f"{dice.name()} {dice.name()}"
    if roll < 0.9:
        letter = dice.pick("ABCDEFGHKLMNPRSTXZ")
        return dice.on_side(lambda: f"{letter}{dice.pick(('', '-'))}{dice.rng.randint(1, 9999)}")
    if roll < 0.95:
        return f"{dice.word()}@{dice.word()}.{dice.pick(('com', 'org', 'net'))}"
    return f"20{dice.rng.randint(10, 30)}-{dice.rng.randint(1, 12):02}-{dice.rng.randint(1, 28):02}"


def _parameter_name(dice: Dice) -> str:
    """Return a parameter's name of either side of the split."""
    name = dice.pick(vocabulary.COMMON) if dice.chance(0.75) else dice.syllables(2)
    return f"{name}_{dice.pick(('id', 'name', 'size', 'type'))}" if dice.chance(0.15) else name


def _parameter(dice: Dice, noun: str) -> Parameter:
    """Draw one parameter and its value."""
    name = dice.on_side(lambda: _parameter_name(dice))
    kind = dice.pick(("string", "string", "string", "integer", "integer", "number"))
    schema: dict[str, Any] = {"type": kind}
    value = _value(dice, kind)
    if kind == "string" and dice.chance(0.15):
        options = [dice.word() for _ in range(dice.rng.randint(2, 3))]
        schema["enum"], value = options, dice.pick(options)
    if dice.chance(0.5):
        form = dice.pick(("The {p}.", "The {p}", "{P}", "The {p} of the {n}", "A {p}."))
        spoken = name.replace("_", " ")
        schema["description"] = form.format(p=spoken, P=spoken.capitalize(), n=noun)
    return Parameter(name, kind, value, schema, optional=dice.chance(0.12))


def _name(dice: Dice, verb: str, noun: str) -> str:
    """Return a tool name in one of the usual styles."""
    styles = (f"{verb}_{noun}",) * 4 + (
        f"{verb}{noun.capitalize()}",
        noun,
        f"{noun}_{verb}",
        f"{verb}-{noun}",
    )
    return dice.pick(styles)


def invent(dice: Dice, taken: frozenset[str] = frozenset()) -> Invented:
    """Draw one tool whose noun is not among `taken` and whose name lies on this side."""
    while True:
        verb, noun = dice.pick(VERBS), _noun(dice)
        name = _name(dice, verb, noun)
        if noun not in taken:
            break
    parameters: list[Parameter] = []
    for _ in range(dice.pick((0, 1, 1, 1, 1, 2, 2, 2, 3))):
        parameter = _parameter(dice, noun)
        if parameter.name not in {noun, *(p.name for p in parameters)}:
            parameters.append(parameter)
    main = parameters[0].spoken if parameters else noun
    form = dice.pick(DESCRIPTIONS)
    text = form.format(V=verb.capitalize(), v=verb, n=noun, p=main)
    return Invented(name, verb, noun, text if dice.chance(0.9) else "", tuple(parameters))


def schema(dice: Dice, tool: Invented) -> Tool:
    """Return the tool as OpenAI's clients send it."""
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {p.name: p.schema for p in tool.parameters},
        "required": [p.name for p in tool.parameters if not p.optional],
    }
    if dice.chance(0.1):
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = parameters
    return {"type": "function", "function": function}


def _spoken_arguments(dice: Dice, given: list[Parameter]) -> str:
    """Say the arguments: by name, by `name=value`, or the bare value where it is clear."""
    if not given:
        return ""
    strings = [p for p in given if p.kind == "string"]
    if len(given) == 1 and dice.chance(0.45):
        return f"{dice.pick(PREPOSITIONS)} {given[0].shown}"
    if len(given) == 2 and len(strings) == 1 and dice.chance(0.4):
        text, number = strings[0], next(p for p in given if p.kind != "string")
        first, second = f"for {text.shown}", f"{number.shown} {number.spoken}"
        return f"{first} {dice.pick(('with', 'and', 'for'))} {second}"
    style = dice.pick(("{p} {v}", "{p} {v}", "{p}={v}", "{p}: {v}", "{p} is {v}", '{p} "{v}"'))
    shown = given if dice.chance(0.7) else dice.sample(given, len(given))
    parts = [style.format(p=p.spoken, v=p.shown) for p in shown]
    joint = dice.pick((" and ", ", "))
    lead = dice.pick(("with ", "for ", "with the ", "where ", ""))
    return lead + joint.join(parts)


def request(dice: Dice, tool: Invented) -> tuple[str, dict[str, Any]]:
    """Return a request for the tool and the arguments that it gives."""
    given = [p for p in tool.parameters if not (p.optional and dice.chance(0.6))]
    spoken = _spoken_arguments(dice, given)
    if tool.verb in GETTERS and dice.chance(0.5):
        form = dice.phrase(LOOKUPS, LOOKUPS_HELD_OUT)
    else:
        form = dice.phrase(REQUESTS, REQUESTS_HELD_OUT)
    text = form.format(V=tool.verb.capitalize(), v=tool.verb, n=tool.noun, a=spoken, t=tool.name)
    for mark in ".,?":
        text = text.replace(" " + mark, mark)
    return text.replace(",.", ".").strip(), {p.name: p.value for p in given}


def render_call(name: str, arguments: dict[str, Any]) -> str:
    """Return the call in Hermes form."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def call_thought(name: str, arguments: dict[str, Any]) -> str:
    """Return a short reason for a call."""
    given = ", ".join(f"{key} is {value}" for key, value in arguments.items())
    return f"The tool {name} fits." + (f" Its {given}." if given else "")


def offered(dice: Dice, count: int, taken: frozenset[str] = frozenset()) -> list[Invented]:
    """Draw `count` tools about different things."""
    found: list[Invented] = []
    while len(found) < count:
        tool = invent(dice, taken)
        taken |= {tool.noun}
        found.append(tool)
    return found


def make(dice: Dice) -> Sample:
    """Draw offered tools and a request that one of them fits."""
    if not dice.held_out and dice.chance(0.12):
        return _known(dice)
    tools = offered(dice, dice.pick((1, 2, 2, 3, 3, 4) if dice.chance(0.2) else (1, 2, 3)))
    chosen = dice.pick(tools)
    text, arguments = request(dice, chosen)
    call = render_call(chosen.name, arguments)
    check = Check("call", (json.dumps({"name": chosen.name, "arguments": arguments}),))
    schemas = tuple(schema(dice, t) for t in tools)
    thought = call_thought(chosen.name, arguments)
    follow = () if dice.held_out else _later(dice, tools, chosen)
    return Sample(
        "tools", turns(user(dice.vary(text))), call, check, thought, schemas, follow=follow
    )


def _later(dice: Dice, tools: list[Invented], called: Invented) -> tuple[Exchange, ...]:
    """Draw later turns with the same tools: results, more calls, and messages that need none."""
    found: list[Exchange] = []
    open_call: Invented | None = called
    for _ in range(dice.pick((1, 2, 3, 4, 5))):
        if open_call is not None and dice.chance(0.4):
            content, answer, _ = outcomes.draw(dice, open_call.noun)
            message: Message = {"role": "tool", "content": content}
            found.append(Exchange(message, answer, f"The tool answered. {answer}"))
            open_call = None
        elif dice.chance(0.3):
            text, answer, thought, _ = _beside(dice, tools)
            found.append(Exchange(user(text), answer, thought))
            open_call = None
        else:
            open_call = _refilled(dice, dice.pick(tools))
            text, arguments = request(dice, open_call)
            call = render_call(open_call.name, arguments)
            thought = call_thought(open_call.name, arguments)
            found.append(Exchange(user(dice.vary(text)), call, thought))
    return tuple(found)


def drill(dice: Dice) -> list[tuple[str, bool]]:
    """Return offered tools and many calls of them as plain text, cut into read and learned."""
    tools = offered(dice, dice.pick((1, 2, 3, 3, 4, 4)))
    lines = "".join(json.dumps(schema(dice, tool), ensure_ascii=False) + "\n" for tool in tools)
    found = [(f"<tools>\n{lines}</tools>\n", False)]
    for _ in range(2 * len(tools) + 2):
        tool = _refilled(dice, dice.pick(tools))
        text, arguments = request(dice, tool)
        found.append((dice.vary(text) + "\n", False))
        if dice.chance(0.4):
            found += _thought_pieces(tool.name, arguments)
        found += _call_pieces(tool.name, arguments)
    return found


def _thought_pieces(name: str, arguments: dict[str, Any]) -> list[tuple[str, bool]]:
    """Cut `call_thought` so that the name and each argument count alone."""
    fits = " fits. Its" if arguments else " fits.\n"
    found = [("The tool", False), (f" {name}", True), (fits, False)]
    for index, (key, value) in enumerate(arguments.items(), 1):
        end = ".\n" if index == len(arguments) else ","
        found += [(f" {key}", True), (" is", False), (f" {value}{end}", True)]
    return found


def _call_pieces(name: str, arguments: dict[str, Any]) -> list[tuple[str, bool]]:
    """Cut `render_call` so that the name and each argument count alone."""
    opening = '", "arguments": {"' if arguments else '", "arguments": {}}\n'
    found = [('<tool_call>\n{"name": "', False), (name, True), (opening, False)]
    for index, (key, value) in enumerate(arguments.items(), 1):
        end = "}}\n" if index == len(arguments) else ","
        shown = json.dumps(value, ensure_ascii=False)
        lead = [(' "', False)] if index > 1 else []
        found += [*lead, (f'{key}":', True), (f" {shown}{end}", True)]
    return [*found, ("</tool_call>\n", False)]


def _refilled(dice: Dice, tool: Invented) -> Invented:
    """Return the tool with other values for its parameters."""
    given = tuple(
        replace(
            p, value=dice.pick(p.schema["enum"]) if "enum" in p.schema else _value(dice, p.kind)
        )
        for p in tool.parameters
    )
    return replace(tool, parameters=given)


def _beside(dice: Dice, tools: list[Invented]) -> tuple[str, str, str, str]:
    """Return a message that none of the tools fits, its answer, thought and key."""
    if dice.chance(0.4):
        stranger = invent(dice, frozenset(t.noun for t in tools))
        text, _ = request(dice, stranger)
        if stranger.name in text:
            text = f"{stranger.verb.capitalize()} the {stranger.noun}."
        thought = f"No tool can {stranger.verb} the {stranger.noun}."
        return text, NO_TOOL, thought, "no tool"
    asks = (world.question, arithmetic.question, greetings.question, greetings.question)
    text, answer, thought, key = dice.pick(asks)(dice)
    return text, answer, f"No tool is needed. {thought}", key


def _known(dice: Dice) -> Sample:
    """Draw a request for one of the tools that examples everywhere use."""
    tool, text, arguments = known_tools.draw(dice)
    name = tool["function"]["name"]
    others = [schema(dice, t) for t in offered(dice, dice.pick((0, 0, 1, 2)))]
    if dice.chance(0.4):
        other = known_tools.draw(dice)[0]
        if known_tools.purpose(other) != known_tools.purpose(tool):
            others.append(other)
    schemas = [tool, *others]
    dice.rng.shuffle(schemas)
    check = Check("call", (json.dumps({"name": name, "arguments": arguments}),))
    call, thought = render_call(name, arguments), call_thought(name, arguments)
    return Sample("tools", turns(user(dice.vary(text))), call, check, thought, tuple(schemas))


def make_without(dice: Dice) -> Sample:
    """Draw offered tools and a message that none of them fits."""
    tools = offered(dice, dice.pick((1, 2, 3)))
    schemas = [schema(dice, t) for t in tools]
    text, answer, thought, key = _beside(dice, tools)
    other = known_tools.draw(dice)[0]
    if dice.chance(0.25) and other["function"]["name"] not in known_tools.CALCULATORS:
        schemas.append(other)
    return Sample("no_tool", turns(user(text)), answer, words(key), thought, tuple(schemas))
