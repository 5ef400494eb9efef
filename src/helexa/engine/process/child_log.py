"""What a child has to say, in the log of its parent: in its format, at its level, without secrets.

A child writes its records to stderr, each as a line that the parent can read; whatever else comes
there, a library's output or the words of a crash, is logged line by line as a warning.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import IO, Final

ROOT: Final = "helexa"
MARK: Final = "\x1e"  # a control character that begins nobody else's line
MAX_LINE_BYTES: Final = 2**20

log = logging.getLogger(__name__)


class Traceback(Exception):
    """Where an exception of a child came through, as text."""


class LineFormatter(logging.Formatter):
    """A record as one line for the parent."""

    def format(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info) if record.exc_info else None
        said = [record.levelno, record.name, record.getMessage(), trace]
        return MARK + json.dumps(said)


def log_to_parent(level: int) -> None:
    """Send what helexa logs in this process, from ``level`` on, to the parent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger(ROOT)
    root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


def level_to_log() -> int:
    """The level that a child is to log at: this process's."""
    return logging.getLogger(ROOT).getEffectiveLevel()


def relay(stream: IO[bytes], pid: int) -> None:
    """Log what the child ``pid`` writes until it is gone: the life of a thread."""
    with stream:
        while line := stream.readline(MAX_LINE_BYTES):
            tell(line.decode(errors="replace").strip("\r\n"), pid)


def tell(line: str, pid: int) -> None:
    """Log one line of a child; something without an end may stand before a record."""
    loose, marked, record = line.partition(MARK)
    fields = {"fields": {"pid": pid}}
    if loose.strip():
        log.warning("%s", loose, extra=fields)
    if not marked:
        return
    try:
        level, name, message, trace = json.loads(record)
        fault = None if trace is None else Traceback(f"\n{trace}")
        logging.getLogger(name).log(level, "%s", message, extra=fields, exc_info=fault)
    except (ValueError, TypeError):
        log.warning("%s", record, extra=fields)  # cut off, or no record at all
