"""The interactive chat: reads lines, runs turns, obeys slash commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from helexa.cli import conversation as talk
from helexa.cli.answer import Answer, Written, stats_line, take
from helexa.cli.conversation import Conversation
from helexa.cli.main import report
from helexa.cli.services import ChatModel, Services
from helexa.cli.terminal import styled
from helexa.engine.checkpoint.cache import expanded
from helexa.errors import (
    DeviceError,
    EngineClosed,
    EngineLost,
    HelexaError,
    InvalidRequest,
    PromptTooLong,
)

PROMPT, CONTINUED = "> ", ". "


@dataclass(slots=True)
class Session:
    """One conversation at a terminal."""

    model: ChatModel
    name: str
    conversation: Conversation
    tools: Sequence[Mapping[str, Any]] | None
    services: Services
    quiet: bool = False

    def run(self) -> None:
        """Until /exit or ^D; a second ^C in a row at the prompt raises KeyboardInterrupt."""
        lines, warned = talk.InputLines(), False
        while True:
            try:
                line = self.services.read_line(CONTINUED if lines.open else PROMPT)
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                if warned:
                    raise
                warned = True
                lines.clear()
                note("^C again, or ^D, leaves")
                continue
            warned = False
            text = lines.push(line)
            if text is not None and not self._obey(text):
                return

    def _obey(self, text: str) -> bool:
        """Do what an input says; whether to go on. A failure is shown, and the chat goes on."""
        try:
            match talk.parse(text):
                case talk.Say(message):
                    self._answer(self.conversation.say(message))
                case talk.Command("exit"):
                    return False
                case talk.Command(name, argument):
                    getattr(self, f"_{name}")(argument)
                case talk.Wrong(reason):
                    report(InvalidRequest(reason))
        except (EngineLost, EngineClosed, DeviceError):
            raise
        except PromptTooLong as error:
            report(HelexaError(error.message, hint=f"/reset starts over; or {error.hint}"))
        except HelexaError as error:
            report(error)
        except OSError as error:
            report(HelexaError(f"{error.filename or 'a file'}: {error.strerror or error}"))
        except UnicodeError:
            report(HelexaError("half a character is in here, which no file can hold"))
        except KeyboardInterrupt:  # between two things; ^C in an answer ends up in `take`
            click.echo()
        return True

    def _answer(self, asked: Conversation) -> None:
        """Let the model answer; a turn that brought nothing leaves no trace."""
        events = self.model.stream_chat(
            asked.messages, asked.params, tools=self.tools, enable_thinking=asked.thinking
        )
        answer = take(events, Written(sys.stdout, sys.stdout), self.services.clock)
        self.conversation = remember(asked, answer, self.conversation)
        if not self.quiet:
            note(stats_line(answer))
        for call in self.conversation.open_calls[:1]:
            note(f"{call['function']['name']} waits: /result TEXT answers it")

    # --- commands, named as in conversation.COMMANDS --------------------------------------------

    def _help(self, _: str) -> None:
        width = max(len(command.usage) for command in talk.COMMANDS.values())
        for command in talk.COMMANDS.values():
            click.echo(f"  {command.usage:<{width}}  {command.text}")
        click.echo(f"A line ending in \\ goes on; {talk.FENCE} begins and ends a longer text.")
        click.echo("^C stops an answer. Settings: " + ", ".join(talk.SETTINGS))

    def _system(self, text: str) -> None:
        self.conversation = self.conversation.with_system(text)
        note("system message set" if text else "no system message")

    def _reset(self, _: str) -> None:
        self.conversation = self.conversation.reset()
        note("forgotten")

    def _set(self, argument: str) -> None:
        if argument:
            name, value = talk.parse_setting(argument)
            self.conversation = self.conversation.set(name, value)
        settings = self.conversation.settings()
        shown = ", ".join(f"{name} {json.dumps(value)}" for name, value in settings.items())
        note(shown or "all settings are the model's own")

    def _result(self, text: str) -> None:
        answered = self.conversation.with_result(text)
        if answered.open_calls:
            self.conversation = answered
            note(f"{answered.open_calls[0]['function']['name']} waits: /result TEXT answers it")
        else:
            self._answer(answered)

    def _save(self, argument: str) -> None:
        path = expanded(argument, "FILE")
        path.write_text(self.conversation.to_json(self.name), encoding="utf-8")
        note(f"saved to {path}")

    def _load(self, argument: str) -> None:
        path = expanded(argument, "FILE")
        try:
            self.conversation = self.conversation.from_json(path.read_text(encoding="utf-8"))
        except InvalidRequest as error:
            raise InvalidRequest(f"{path}: {error.message}", hint=error.hint) from error
        except UnicodeError as error:
            raise InvalidRequest(f"{path}: not a conversation: not UTF-8 text") from error
        note(f"{len(self.conversation.messages)} messages from {path}")


def remember(asked: Conversation, answer: Answer, before: Conversation) -> Conversation:
    """The conversation after an answer; as it was before the question if nothing came."""
    if answer.interrupted and not answer.text:
        return before
    return asked.answered(answer.text, answer.reasoning, answer.openai_calls())


def note(text: str) -> None:
    """A dim line that is not part of the conversation."""
    click.echo(styled(text, sys.stdout, dim=True))
