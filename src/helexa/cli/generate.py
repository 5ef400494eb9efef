"""`helexa generate`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from helexa.cli.answer import Answer, Silent, Written, stats_line, take
from helexa.cli.model_options import (
    LoadOptions,
    SamplingOptions,
    gathered,
    load_options,
    sampling_options,
)
from helexa.cli.options import DEFAULT_MODEL, MODEL_HELP, debug_option, json_option
from helexa.cli.services import opened, services
from helexa.cli.stdin import read_stdin
from helexa.cli.terminal import styled
from helexa.engine.checkpoint.cache import RepoCache, cache_root
from helexa.engine.checkpoint.reference import Builtin, HubId, LocalFolder, parse_reference
from helexa.errors import PreflightError

STDIN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is printed."""

    quiet: bool
    as_json: bool


output_options = gathered(
    "output",
    Output,
    (click.option("-q", "--quiet", is_flag=True, help="No statistics."), json_option),
)


@click.command(epilog=MODEL_HELP)
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT|-]")
@output_options
@sampling_options
@load_options
@debug_option
@click.pass_context
def generate(
    ctx: click.Context,
    words: tuple[str, ...],
    output: Output,
    sampling: SamplingOptions,
    load: LoadOptions,
) -> None:
    """Continue a text, without a chat template.

    The text goes to stdout as it is written, statistics go to stderr. The prompt is PROMPT, or
    stdin for `-` or when something is piped in.

    One argument alone is the MODEL if it is `tiny`, a model folder or file, or a model that has
    been downloaded; it is the PROMPT, for `tiny`, if it is anything else, except that the id
    of a model that has not been downloaded is refused rather than guessed about.
    """
    world = services(ctx)
    model, prompt = split(words, load.cache_dir, piped=not world.interactive())
    text = read_stdin("prompt") if prompt == STDIN else prompt
    params = sampling.params()
    show = Silent() if output.as_json else Written(sys.stdout, sys.stderr, exact=True)
    with opened(world, model, load) as llm:
        answer = take(llm.stream(text, params), show, world.clock)
    if answer.interrupted:
        raise KeyboardInterrupt
    if output.as_json:
        click.echo(_document(model, text, answer))
    elif not output.quiet:
        click.echo(styled(stats_line(answer), sys.stderr, dim=True), err=True)


def split(words: tuple[str, ...], cache_dir: Path | None, *, piped: bool) -> tuple[str, str]:
    """Model and prompt from the arguments; the prompt is ``-`` when it is on stdin.

    Raises click.UsageError if there is no prompt, or what was meant is not clear.
    """
    if len(words) > 2:
        raise click.UsageError("more than a MODEL and a PROMPT; put the prompt in quotes")
    if len(words) == 2:
        return words[0], words[1]
    if words and not _is_model(words[0], cache_dir):
        return DEFAULT_MODEL, words[0]
    if not piped:
        raise click.UsageError("there is no prompt; give one, or pipe one in")
    return (words[0] if words else DEFAULT_MODEL), STDIN


def _is_model(word: str, cache_dir: Path | None) -> bool:
    """Whether a lone argument is a model; click.UsageError if it could be but is not here."""
    try:
        reference = parse_reference(word)
    except (PreflightError, OSError, RuntimeError):  # no reference, or too long for a path
        return False
    if isinstance(reference, LocalFolder):
        return (reference.path / "config.json").is_file()
    if not isinstance(reference, HubId):
        return isinstance(reference, Builtin) or reference.path.is_file()
    if RepoCache(cache_root(cache_dir, os.environ), reference.org, reference.name).folder.is_dir():
        return True
    raise click.UsageError(
        f"{word!r} could be a model that is not downloaded or a prompt: write"
        f" `helexa generate {word} -`, or `helexa generate {DEFAULT_MODEL} {word!r}`"
    )


def _document(model: str, prompt: str, answer: Answer) -> str:
    shown = answer.as_json()
    del shown["reasoning"], shown["tool_calls"]
    return json.dumps({"model": model, "prompt": prompt, **shown}, ensure_ascii=False, indent=2)
