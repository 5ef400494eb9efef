"""`helexa chat`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from helexa.cli.answer import Silent, Written, stats_line, take
from helexa.cli.conversation import Conversation
from helexa.cli.model_options import (
    LoadOptions,
    SamplingOptions,
    gathered,
    load_options,
    sampling_options,
)
from helexa.cli.options import DEFAULT_MODEL, MODEL_HELP, debug_option, json_option
from helexa.cli.services import ChatModel, Services, opened, services
from helexa.cli.session import Session, note
from helexa.cli.stdin import read_stdin
from helexa.cli.terminal import count, styled


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says of the conversation."""

    messages: tuple[str, ...]
    system: str | None
    thinking: bool | None
    tools: Path | None
    quiet: bool
    as_json: bool


asked_options = gathered(
    "asked",
    Asked,
    (
        click.option(
            "-m",
            "--message",
            "messages",
            multiple=True,
            metavar="TEXT",
            help="Ask this and leave; repeatable, one turn each; - is stdin.",
        ),
        click.option("-s", "--system", metavar="TEXT", help="The system message."),
        click.option(
            "--think/--no-think", "thinking", default=None, help="Reason before answering."
        ),
        click.option(
            "--tools",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="JSON list of tools the model may call, in OpenAI's form.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No statistics."),
        json_option,
    ),
)


@click.command(epilog=MODEL_HELP)
@click.argument("model", default=DEFAULT_MODEL)
@asked_options
@sampling_options
@load_options
@debug_option
@click.pass_context
def chat(
    ctx: click.Context,
    model: str,
    asked: Asked,
    sampling: SamplingOptions,
    load: LoadOptions,
) -> None:
    """Talk to a model.

    At a terminal this is a conversation: /help lists its commands, ^C stops an answer, ^D leaves.

    With -m, or with text piped in (the whole of it is one message), it answers and leaves: the
    answer goes to stdout, reasoning and statistics go to stderr.
    """
    world = services(ctx)
    turns = _turns(asked, world)
    if asked.as_json and turns is None:
        raise click.UsageError("--json needs -m TEXT, or a message on stdin")
    start = Conversation(params=sampling.params(), thinking=asked.thinking)
    start = start.with_system(asked.system or "")
    tools = read_tools(asked.tools) if asked.tools else None
    with opened(world, model, load) as llm:
        if turns is None:
            _greet(llm, model)
            Session(llm, model, start, tools, world, asked.quiet).run()
        else:
            _OneShot(llm, model, asked, tools, world).run(start, turns)


def _turns(asked: Asked, world: Services) -> list[str] | None:
    """The messages to ask, None if a person is going to type them."""
    if not asked.messages:
        return None if world.interactive() else [read_stdin("message")]
    if asked.messages.count("-") > 1:
        raise click.UsageError("stdin can be only one of the messages")
    if not all(text.strip() for text in asked.messages):
        raise click.BadParameter("the message is empty", param_hint="'-m'")
    return [read_stdin("message") if text == "-" else text for text in asked.messages]


def read_tools(path: Path) -> list[Mapping[str, Any]]:
    """The tools in a file. Raises click.BadParameter if they are not a list of objects."""
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="'--tools'") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise click.BadParameter(f"{path} is not a JSON list of tools", param_hint="'--tools'")
    return tools


@dataclass(frozen=True, slots=True)
class _OneShot:
    """Turns given beforehand, asked one after the other."""

    llm: ChatModel
    model: str
    asked: Asked
    tools: Sequence[Mapping[str, Any]] | None
    world: Services

    def run(self, conversation: Conversation, turns: Sequence[str]) -> None:
        """Ask them all; ^C ends the program."""
        show = Silent() if self.asked.as_json else Written(sys.stdout, sys.stderr)
        answers = []
        for text in turns:
            conversation = conversation.say(text)
            events = self.llm.stream_chat(
                conversation.messages,
                conversation.params,
                tools=self.tools,
                enable_thinking=conversation.thinking,
            )
            answer = take(events, show, self.world.clock)
            if answer.interrupted:
                raise KeyboardInterrupt
            conversation = conversation.answered(
                answer.text, answer.reasoning, answer.openai_calls()
            )
            answers.append(answer)
            if not self.asked.quiet and not self.asked.as_json:
                _statistics(stats_line(answer), sys.stderr)
        if self.asked.as_json:
            document = {
                "model": self.model,
                "messages": list(conversation.messages),
                "answers": [answer.as_json() for answer in answers],
            }
            click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _statistics(line: str, stream: IO[str]) -> None:
    click.echo(styled(line, stream, dim=True), file=stream)


def _greet(llm: ChatModel, name: str) -> None:
    info = llm.info
    click.echo(styled(name, sys.stdout, bold=True), nl=False)
    note(
        f" · {count(info.parameters)} parameters · {info.dtype} on {info.device}"
        f" · context of {info.max_context} tokens · /help, ^D leaves"
    )
