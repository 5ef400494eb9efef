"""Progress on a terminal and in a pipe."""

from __future__ import annotations

import io
import re

from helexa.cli.progress import Bars, download_progress, load_progress
from helexa.engine.checkpoint.files import KERNELS

MIB = 2**20
CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


class Screen(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def last_lines(screen: Screen) -> str:
    return CODES.sub("", screen.getvalue())


def test_each_file_has_a_bar_on_a_terminal() -> None:
    screen = Screen()
    with download_progress(screen) as report:
        report("config.json", 700, 700)
        report("model[red].safetensors", MIB, 4 * MIB)
        report("model[red].safetensors", 4 * MIB, 4 * MIB)
    shown = last_lines(screen)
    assert "config.json" in shown
    assert "700/700 bytes" in shown
    assert "model[red].safetensors" in shown  # a name is no markup
    assert "4.0/4.0 MiB" in shown


def test_a_length_that_is_not_known_is_no_error() -> None:
    screen = Screen()
    with download_progress(screen) as report:
        report("config.json", 700, None)
        report("config.json", 800, None)
    assert "800/? bytes" in last_lines(screen)


def test_merged_bars_add_up_and_are_gone_at_the_end() -> None:
    screen = Screen()
    bars = Bars(screen, merged=True)
    bars("a", MIB, 2 * MIB)
    bars("b", 2 * MIB, 2 * MIB)
    bars.close()
    bars.close()
    assert "3.0/4.0 MiB" in last_lines(screen)
    assert screen.getvalue().endswith(("\x1b[2K", "\x1b[2K\n", "\x1b[?25h\r\x1b[1A\x1b[2K"))


def test_kernels_are_counted_apart_from_bytes() -> None:
    """As loading tells of both: they are compiled after all is read, for a minute or two."""
    screen = Screen()
    with load_progress(screen) as report:
        assert report is not None
        report("weights", 4 * MIB, 4 * MIB)
        read = len(screen.getvalue())
        for done in (1, 2, 3):
            report(KERNELS, done, 12)
    shown = CODES.sub("", screen.getvalue()[read:])
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "4.0/4.0 MiB" in lines["weights"]
    assert "3/12" in lines[KERNELS]
    assert "B" not in lines[KERNELS]
    assert "bytes" not in lines[KERNELS]


def test_nothing_is_drawn_when_nothing_is_loaded() -> None:
    screen = Screen()
    with load_progress(screen) as report:
        assert report is not None
    assert screen.getvalue() == ""


def test_a_pipe_gets_a_line_per_whole_file_or_nothing() -> None:
    pipe = io.StringIO()
    with download_progress(pipe) as report:
        report("a", 1, 2048)
        report("a", 2048, 2048)
        report("a", 2048, 2048)
        report("b", 1, None)
    assert pipe.getvalue() == "a 2.0 KiB\n"
    with load_progress(pipe) as none:
        assert none is None
