"""What a chat remembers and what a typed line means: values in, values out, no terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from helexa.engine.params import SamplingParams
from helexa.errors import InvalidRequest

Message = Mapping[str, Any]

FENCE = '"""'
_COMMAND = re.compile(r"/([A-Za-z]+|\?)(?:\s+|$)")
_SETTING = re.compile(r"([^\s=]*)\s*=?\s*(?s:(.*))")
_SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_DEFAULT = frozenset(("default", "none", "null"))


# --- what was typed -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One of ``COMMANDS`` with the rest of its line, stripped."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A line that means nothing; ``reason`` says why and what would."""

    reason: str


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """How a slash command is written and what it does; ``needs`` names a required argument."""

    usage: str
    text: str
    needs: str = ""


COMMANDS: Mapping[str, CommandHelp] = {
    "help": CommandHelp("/help", "this list"),
    "system": CommandHelp("/system [TEXT]", "set the system message; without TEXT, drop it"),
    "reset": CommandHelp("/reset", "forget the conversation, keep system message and settings"),
    "set": CommandHelp(
        "/set [NAME VALUE]", "change a setting, e.g. temperature 0.2; without NAME, show them"
    ),
    "result": CommandHelp(
        "/result TEXT", "answer the oldest open tool call", needs="the result as TEXT"
    ),
    "save": CommandHelp("/save FILE", "write the conversation as JSON", needs="a FILE"),
    "load": CommandHelp("/load FILE", "continue a saved conversation", needs="a FILE"),
    "exit": CommandHelp("/exit", "leave (so does ^D)"),
}
ALIASES: Mapping[str, str] = {"?": "help", "quit": "exit", "bye": "exit", "clear": "reset"}


def parse(text: str) -> Say | Command | Wrong | None:
    """What a complete input means; None for blank input.

    A command is a slash and one word. Text that begins with a path (``/usr/bin``) is a message,
    and ``//`` at the start is a message beginning with one slash.
    """
    text = text.strip()
    if not text:
        return None
    if text.startswith("//"):
        return Say(text[1:])
    match = _COMMAND.match(text)
    if match is None:
        return Say(text)
    typed = match[1].lower()
    name = ALIASES.get(typed, typed)
    if name not in COMMANDS:
        return Wrong(f"there is no /{typed}; {_suggest(typed, COMMANDS, '/')}")
    argument = text[match.end() :].strip()
    if COMMANDS[name].needs and not argument:
        return Wrong(f"/{name} needs {COMMANDS[name].needs}: {COMMANDS[name].usage}")
    return Command(name, argument)


@dataclass(slots=True)
class InputLines:
    r"""Joins typed lines to one input: a trailing backslash goes on, ``\"\"\"`` opens a fence."""

    _lines: list[str] = field(default_factory=list)
    _fenced: bool = False

    def push(self, line: str) -> str | None:
        """Take a line; the whole input when it is complete, else None."""
        if self._fenced:
            return self._inside(line)
        if not self._lines and line.lstrip().startswith(FENCE):
            self._fenced = True
            opened = line.lstrip()[len(FENCE) :]
            return self._inside(opened) if opened.strip() else None
        if line.endswith("\\"):
            self._lines.append(line[:-1])
            return None
        return self._whole(line)

    def clear(self) -> None:
        """Forget a half-typed input."""
        self._lines.clear()
        self._fenced = False

    @property
    def open(self) -> bool:
        """Whether the next line continues an input."""
        return self._fenced or bool(self._lines)

    def _inside(self, line: str) -> str | None:
        body = line.rstrip()
        if not body.endswith(FENCE):
            self._lines.append(line)
            return None
        text = self._whole(body[: -len(FENCE)]).strip()
        return f"/{text}" if text.startswith("/") else text  # a fence holds no commands

    def _whole(self, last: str) -> str:
        text = "\n".join([*self._lines, last])
        self.clear()
        return text


# --- settings -----------------------------------------------------------------------------------

SETTINGS = (*(f.name for f in fields(SamplingParams) if f.name != "n"), "thinking")


def parse_setting(text: str) -> tuple[str, Any]:
    """``NAME VALUE`` or ``NAME=VALUE`` as name and value; None as value means the default.

    Values are JSON, ``on``/``off``, or else plain text. Raises InvalidRequest for an unknown name
    or a missing value.
    """
    name, value = _SETTING.match(text.strip()).groups()  # type: ignore[union-attr]  # always
    name = name.lower().replace("-", "_")
    if name not in SETTINGS:
        raise InvalidRequest(f"there is no setting {name!r}", hint=_suggest(name, SETTINGS))
    if not value:
        raise InvalidRequest(f"{name} needs a value", hint=f"/set {name} default takes it back")
    if value.lower() in _DEFAULT:
        return name, None
    if name == "thinking":
        return name, _on_or_off(value)
    if name == "ignore_eos":
        return name, _SWITCH.get(value.lower(), value)
    return name, _json_or_text(value)


def _on_or_off(value: str) -> bool:
    try:
        return _SWITCH[value.lower()]
    except KeyError:
        raise InvalidRequest(f"thinking is on or off, not {value!r}") from None


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


# --- the conversation ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in chat form and the settings for the next answer; every change makes a new one."""

    messages: tuple[Message, ...] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    thinking: bool | None = None

    @property
    def system(self) -> str | None:
        """The system message's text."""
        first = self.messages[0] if self.messages else {}
        return str(first.get("content", "")) if first.get("role") == "system" else None

    def with_system(self, text: str) -> Conversation:
        """With this system message; without any for empty text."""
        rest = self.messages[1:] if self.system is not None else self.messages
        head = ({"role": "system", "content": text},) if text else ()
        return replace(self, messages=(*head, *rest))

    def say(self, text: str) -> Conversation:
        """With a user's message added."""
        return self._add({"role": "user", "content": text})

    def answered(
        self, text: str, reasoning: str = "", tool_calls: tuple[Message, ...] = ()
    ) -> Conversation:
        """With the model's answer added. ``tool_calls`` are in OpenAI's form."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning:
            message["reasoning_content"] = reasoning
        if tool_calls:
            message["tool_calls"] = list(tool_calls)
        return self._add(message)

    @property
    def open_calls(self) -> tuple[Message, ...]:
        """Tool calls of the last answer that have no result yet, oldest first."""
        for index in range(len(self.messages) - 1, -1, -1):
            message = self.messages[index]
            if message["role"] == "assistant":
                done = {m.get("tool_call_id") for m in self.messages[index + 1 :]}
                return tuple(c for c in message.get("tool_calls", ()) if c["id"] not in done)
            if message["role"] != "tool":
                break
        return ()

    def with_result(self, text: str) -> Conversation:
        """With the oldest open tool call answered. Raises InvalidRequest if there is none."""
        if not self.open_calls:
            raise InvalidRequest("no tool call is waiting for a result")
        call = self.open_calls[0]
        name = call["function"]["name"]
        return self._add(
            {"role": "tool", "tool_call_id": call["id"], "name": name, "content": text}
        )

    def reset(self) -> Conversation:
        """Without its turns; the system message and the settings stay."""
        return replace(self, messages=self.messages[: 1 if self.system is not None else 0])

    def set(self, name: str, value: Any) -> Conversation:
        """With one setting changed, None to the default. Raises InvalidRequest if it is wrong."""
        if name == "thinking":
            if value is not None and not isinstance(value, bool):
                raise InvalidRequest(f"thinking is on or off (true or false), not {value!r:.80}")
            return replace(self, thinking=value)
        if value is None:
            value = getattr(SamplingParams(), name)
        if name == "temperature" and isinstance(value, int | float) and value < 0:
            raise InvalidRequest(
                f"temperature must be at least 0, not {value}", hint="0 takes the likeliest token"
            )
        return replace(self, params=self.params.override(**{name: value}))

    def settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        default = SamplingParams()
        changed = {
            f.name: _plain(getattr(self.params, f.name))
            for f in fields(SamplingParams)
            if getattr(self.params, f.name) != getattr(default, f.name)
        }
        return changed if self.thinking is None else {**changed, "thinking": self.thinking}

    def to_json(self, model: str) -> str:
        """As the JSON text that ``from_json`` reads."""
        document = {"model": model, "settings": self.settings(), "messages": list(self.messages)}
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

    def from_json(self, text: str) -> Conversation:
        """The conversation of a saved document, or of a bare list of messages.

        What the document does not say, settings for instance, stays as it is here. Raises
        InvalidRequest if the text is something else.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"not a conversation: invalid JSON ({error})") from None
        if isinstance(document, list):
            document = {"messages": document}
        if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
            raise InvalidRequest("not a conversation: there is no list of messages")
        messages = [_checked(message, at) for at, message in enumerate(document["messages"])]
        loaded = replace(self, messages=tuple(messages))
        settings = document.get("settings", {})
        if not isinstance(settings, dict):
            raise InvalidRequest("not a conversation: settings is not an object")
        for name, value in settings.items():
            if name not in SETTINGS:
                raise InvalidRequest(f"there is no setting {name!r}", hint=_suggest(name, SETTINGS))
            loaded = loaded.set(name, value)
        return loaded

    def _add(self, message: Message) -> Conversation:
        return replace(self, messages=(*self.messages, message))


def _checked(message: Any, at: int) -> Message:
    """A message whose shape is right; whether the model understands it, its template decides.

    Null fields, which OpenAI's clients write for absent ones, are left out, but for the content.
    """
    place = f"messages[{at}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _wrong(place, "has no role")
    kept = {key: value for key, value in message.items() if value is not None or key == "content"}
    if not isinstance(kept.get("content"), str | list | None):
        raise _wrong(place, "has content that is not text")
    if kept.get("content") is None and kept["role"] != "assistant":
        raise _wrong(place, f"is of role {kept['role']!r} and has no content")
    if not isinstance(kept.get("tool_call_id", ""), str):
        raise _wrong(place, "has a tool_call_id that is not text")
    _check_calls(kept.get("tool_calls", []), f"{place}.tool_calls")
    return kept


def _check_calls(calls: Any, place: str) -> None:
    """Raise InvalidRequest unless every call can be named and answered."""
    if not isinstance(calls, list):
        raise _wrong(place, "is not a list")
    for at, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong(f"{place}[{at}]", "has no function with a name")
        if not isinstance(call.get("id"), str):
            raise _wrong(f"{place}[{at}]", "has no id")


def _wrong(place: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"not a conversation: {place} {what}",
        hint="messages have OpenAI's form, as /save writes it",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _suggest(name: str, known: Any, prefix: str = "") -> str:
    close = get_close_matches(name, list(known), n=2, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(prefix + c for c in close) + "?"
    return "there are " + ", ".join(prefix + k for k in known)
