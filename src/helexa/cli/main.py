"""The `helexa` command: finds the subcommand, turns every error into a line and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import click

from helexa import __version__
from helexa.cli.options import DEBUG, MODEL_HELP, debug_option
from helexa.errors import HelexaError

OK, FAILED, USAGE, INTERRUPTED, PIPE_CLOSED, TERMINATED = 0, 1, 2, 130, 141, 143

COMMANDS: Mapping[str, str] = {
    "chat": "Talk to a model.",
    "gateway": "Serve one address for many neurons, as a daemon.",
    "generate": "Continue a text, without a chat template.",
    "inspect": "Show what a model is made of and what it needs here.",
    "models": "List the models on this machine.",
    "neuron": "Serve models on this host, as a daemon.",
    "pull": "Download a model.",
    "quantize": "Write a model in fewer bits, to a GGUF file or a folder.",
    "serve": "Serve one model on this machine.",
    "status": "Show the models of a fleet, and its hosts and their loads.",
    "version": "Show versions of helexa, Python, torch and the platform.",
}

EPILOG = """\b
Exit codes:
  0    done
  1    it failed; the reason is on stderr
  2    the command line is wrong
  130  interrupted (^C)
  141  the reader of our output went away
  143  ended from outside (SIGTERM)

"""


class LazyGroup(click.Group):
    """Subcommands whose modules are imported when they are called, not for the group's help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in alphabetical order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``helexa.cli.NAME`` and take its attribute NAME."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(
            importlib.import_module(f"helexa.cli.{cmd_name}"), cmd_name
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; the one place where errors become exit codes."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, not while Python exits
            return result
        except HelexaError as error:
            if ctx.meta.get(DEBUG):
                raise
            report(error)
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            discard_stdout()
            ctx.exit(PIPE_CLOSED)
        except OSError as error:  # a file or folder that cannot be read or written
            if ctx.meta.get(DEBUG):
                raise
            report(HelexaError(str(error)))
            ctx.exit(FAILED)


def report(error: HelexaError) -> None:
    """One red line with the fact, and one with the way out if there is one, on stderr."""
    from helexa.cli.terminal import styled

    click.echo(styled(f"error: {error.message}", sys.stderr, fg="red"), err=True)
    if error.hint:
        click.echo(styled(f"hint: {error.hint}", sys.stderr, dim=True), err=True)


def discard_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's last flush is silent."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG + MODEL_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="helexa", message="%(prog)s %(version)s")
@debug_option
def cli() -> None:
    """Open-weight language models on hardware you own."""


def main(args: Sequence[str] | None = None) -> None:
    """The console script; ``args`` are those of the process if not given."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us; open for the life of the process
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # never to be closed
        elif hasattr(stream, "reconfigure"):  # odd bytes become "?", not a traceback
            stream.reconfigure(errors="replace")
    warnings.showwarning = show_warning
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # else it is to be ignored
        signal.signal(signal.SIGTERM, terminate)
    try:
        cli(args, prog_name="helexa")
    except OSError as error:  # help that nobody can read
        report(HelexaError(str(error)))
        discard_stdout()
        sys.exit(FAILED)


def terminate(*_: object) -> None:
    """End the command as ^C does, so that nothing half done stays behind; a second time at once.

    Daemons wait for the signal themselves, once they have started.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(TERMINATED)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line on stderr, without the place in our source that found it."""
    from helexa.cli.terminal import styled

    click.echo(styled(f"warning: {message}", sys.stderr, fg="yellow"), err=True)
