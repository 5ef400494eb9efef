"""The chat at a real (pseudo) terminal: typing, colours, ^C in mid-answer."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from helexa.cli.terminal import count, printable, size

TIMEOUT_S = 90
PATIENCE_S = 5
CONTROL_C, CONTROL_D = "\x03", "\x04"
STYLE = re.compile(r"\x1b\[[\d;]*m")

# Makes its stdin the controlling terminal, so that ^C is a signal, and heeds it even if the tests
# run in the background of a shell, where it is ignored; then it is the command.
CHILD = """
import fcntl, signal, termios
signal.signal(signal.SIGINT, signal.default_int_handler)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from helexa.cli.main import main
main()
"""


class Terminal:
    """A process at a terminal: type to it, wait for what it shows."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self._process = process
        self._master = master
        self._unread = ""
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt_until(self, wanted: str) -> str:
        """Press ^C until ``wanted`` is shown, once unless nothing happens for a while.

        A ^C in the moment between a prompt and the wait for keys is only noticed with the next key:
        readline checks for signals before it waits, but not while it starts to.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while wanted not in self._unread and time.monotonic() < deadline:
            self.type(CONTROL_C)
            patience = time.monotonic() + PATIENCE_S
            while wanted not in self._unread and self._read(patience):
                pass
        return self.expect(wanted)

    def expect(self, wanted: str) -> str:
        """Wait until ``wanted`` is shown; all that was shown up to its end, since the last time."""
        deadline = time.monotonic() + TIMEOUT_S
        while wanted not in self._unread:
            if not self._read(deadline):
                raise AssertionError(f"{wanted!r} was not shown, but {self._unread!r}")
        end = self._unread.index(wanted) + len(wanted)
        found, self._unread = self._unread[:end], self._unread[end:]
        return found

    def interrupt_until_end(self) -> None:
        """Press ^C until the process has ended, see `interrupt_until`."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            self.type(CONTROL_C)
            patience = time.monotonic() + PATIENCE_S
            while self._read(patience):
                pass

    def leave(self) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(deadline):
            pass
        return self._process.wait(TIMEOUT_S)

    def _read(self, deadline: float) -> bool:
        """Take what is shown next; False at the end of the process or the deadline."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:  # EIO: the other side is closed
            return False
        self._unread += data
        self.shown += data
        return bool(data)


@contextmanager
def terminal(*args: str, **environ: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**plain, "TERM": "xterm", "COLUMNS": "100", **environ},
        ) as process:
            os.close(slave)
            try:
                yield Terminal(process, master)
            finally:
                process.kill()
    finally:
        os.close(master)


def test_an_interrupt_stops_the_answer_and_not_the_program() -> None:
    with terminal("chat", "--seed", "1", "--ignore-eos") as screen:
        screen.expect("/help, ^D leaves")
        screen.expect("> ")
        screen.type("Tell me everything you know.\n")
        screen.expect("know.\r\n")
        screen.expect("e")  # the answer has begun
        screen.type(CONTROL_C)
        screen.expect("stopped")
        screen.expect("> ")
        screen.type("/set ignore_eos off\n")
        screen.expect("> ")
        screen.type("What is 2 + 3?\n")
        screen.expect("tok/s")
        screen.expect("prompt tokens cached")
        screen.expect("> ")
        screen.type(CONTROL_D)
        assert screen.leave() == 0
        assert "\x1b[2m" in screen.shown
        assert "Traceback" not in screen.shown


def test_two_interrupts_at_the_prompt_leave() -> None:
    with terminal("chat", NO_COLOR="1") as screen:
        screen.expect("> ")
        screen.type('"""\n')
        screen.expect(". ")
        screen.type("half a message\n")
        screen.expect("message\r\n. ")  # all is read: ^C would throw away what is not
        screen.interrupt_until("^C again, or ^D, leaves")
        screen.expect("> ")
        screen.interrupt_until_end()
        assert screen.leave() == 130
        assert not STYLE.search(screen.shown)


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
@pytest.mark.parametrize("args", [["models"], ["inspect", "no-such-model"]], ids=["table", "error"])
def test_colours_are_for_terminals_that_want_them(
    args: list[str], environ: dict[str, str], coloured: bool
) -> None:
    with terminal(*args, **environ) as screen:
        screen.leave()
        assert bool(STYLE.search(screen.shown)) == coloured


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\r\tc\n\x9b1md") == "a[2Jb\tc\n1md"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40, "1.0 TiB")]
)
def test_sizes_in_words(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(950, "950"), (12_345, "12.3k"), (4_100_000, "4.1M"), (596_000_000, "596M"), (10**9, "1.0B")],
)
def test_counts_in_words(number: int, text: str) -> None:
    assert count(number) == text
