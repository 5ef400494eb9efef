"""Help texts are as checked in. `python tests/cli/test_help.py` writes them anew."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from click.testing import CliRunner

from helexa.cli.main import COMMANDS, LazyGroup, cli

HELP = Path(__file__).parent / "help"
NAMES = ["helexa", *COMMANDS]


def help_text(name: str) -> str:
    args = ["--help"] if name == "helexa" else [name, "--help"]
    done = CliRunner().invoke(cli, args, prog_name="helexa", terminal_width=80)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_help_is_as_checked_in(name: str) -> None:
    assert help_text(name) == (HELP / f"{name}.txt").read_text(encoding="utf-8")


def test_no_help_is_left_over() -> None:
    assert {path.stem for path in HELP.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says_of_itself(name: str) -> None:
    assert isinstance(cli, LazyGroup)
    command = cli.get_command(cli.make_context("helexa", ["version"]), name)
    assert command is not None
    assert inspect.cleandoc(command.help or "").splitlines()[0] == COMMANDS[name]


if __name__ == "__main__":
    for each in NAMES:
        (HELP / f"{each}.txt").write_text(help_text(each), encoding="utf-8")
