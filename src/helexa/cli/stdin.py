"""Text that is piped in."""

from __future__ import annotations

import sys

import click


def read_stdin(what: str) -> str:
    """All of stdin as UTF-8 text without its last newline; ``what`` names it in the errors.

    Raises click.UsageError if there is none, or it is not text.
    """
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""  # None: closed by the parent
    try:
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the {what} on stdin is not UTF-8 text: {error}") from error
    if not text.strip():
        raise click.UsageError(f"there is no {what} on stdin")
    return text


def stdin_is_terminal() -> bool:
    """Whether a person would have to type what is read."""
    return sys.stdin is not None and sys.stdin.isatty()
