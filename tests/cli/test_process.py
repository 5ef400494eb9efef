"""The command as a process: what a shell sees of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from helexa.quantising import quantise_to_file

HELEXA = [sys.executable, "-m", "helexa"]
ENDLESS = ["--ignore-eos", "--max-tokens", "8192", "--seed", "1"]
TIMEOUT_S = 100


@contextmanager
def started(*args: str, command: Sequence[str] = HELEXA) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*command, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(*args: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HELEXA, *args],
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_built_in_model_answers_a_piped_question() -> None:
    done = finished("chat", "-t", "0", "--no-think", text="What is 2 + 3?\n")
    assert (done.returncode, done.stdout.strip() != "") == (0, True)
    assert "tok/s" in done.stderr
    assert "cut off" not in done.stderr


def test_a_text_is_continued_in_json() -> None:
    done = finished("generate", "--json", "-n", "5", "-t", "0", "Once upon a time")
    found = json.loads(done.stdout)
    assert (done.returncode, found["model"], done.stderr) == (0, "tiny", "")
    assert 0 < found["usage"]["completion_tokens"] <= 5


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["inspect", "no-such-model"], 1, "error: model 'no-such-model'"),
        (["chat", "-m", "x", "--device", "abacus"], 2, "'--device'"),
        (["chat", "-m", "x", "--max-context", "0"], 2, "'--max-context'"),
        (["generate", "tiny", "x", "--temperature", "hot"], 2, "'--temperature'"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_exit_codes_mean_something(args: list[str], code: int, says: str) -> None:
    done = finished(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("version >&-", 0),
        ("generate tiny Once -n 3 >&-", 0),
        ("--help >/dev/full", 1),
        ("models --cache-dir '~nobody-at-all/x'", 1),
        ("pull --cache-dir '~nobody-at-all/x' a/b", 1),
        ("version 2>&-", 0),
    ],
)
def test_what_a_shell_can_do_to_it_is_no_traceback(command: str, code: int) -> None:
    done = subprocess.run(
        f'"{sys.executable}" -m helexa {command}',
        shell=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    with started("generate", "tiny", "Once", *ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(TIMEOUT_S) == 141
        assert process.stderr.read() == b""


def test_a_signal_in_mid_answer_is_130() -> None:
    with started("chat", "-m", "hello", *ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("args", [["chat", "-m", "hello"], ["generate", "tiny", "Once"]])
def test_being_ended_in_mid_answer_is_143(args: list[str]) -> None:
    with started(*args, *ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 143
        assert process.stderr.read() == b""


# The command, but that it never gets further than what it has written first.
STUCK = """
import time
from helexa import quantising
from helexa.cli.entry import main
def told(*_):
    def stop(done):
        print(done, flush=True)
        time.sleep(600)
    return stop
quantising.told = told
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "to"),
    [
        (signal.SIGINT, 130, "q.gguf"),
        (signal.SIGTERM, 143, "q"),
        (signal.SIGKILL, -signal.SIGKILL, "q.gguf"),
    ],
    ids=["int file", "term folder", "kill file"],
)
def test_quantize_that_is_ended_leaves_nothing_in_the_end(
    number: signal.Signals, code: int, to: str, tmp_path: Path
) -> None:
    """What a killed one leaves goes with the next run."""
    place = tmp_path / "to"
    place.mkdir()
    assert ended_as_it_writes(number, place / to) == code
    left = [path.name for path in place.iterdir()]
    assert len(left) == (1 if number == signal.SIGKILL else 0), left
    assert to not in left
    quantise_to_file("tiny", place / to, "q8_0")
    assert [path.name for path in place.iterdir()] == [to]


def ended_as_it_writes(number: signal.Signals, to: Path) -> int:
    """The exit status of a quantisation that gets a signal in the middle of writing."""
    stuck = [sys.executable, "-c", STUCK]
    with started("quantize", "tiny", str(to), "--to", "q8_0", command=stuck) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        assert any(path.is_file() and path != to for path in to.parent.rglob("*"))
        process.send_signal(number)
        return process.wait(TIMEOUT_S)


LIGHT = """
import sys
from helexa.cli.main import main
try:
    main(["--help"])
finally:
    print(*sorted({"torch", "rich", "numpy", "json"} & set(sys.modules)), file=sys.stderr)
"""


def test_help_loads_next_to_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, check=True)
    assert done.stderr == b"\n"


def test_help_takes_less_than_a_fifth_of_a_second() -> None:
    """Of processor time, the best of three: other work on the machine must not count."""

    def help_s() -> float:
        process = subprocess.Popen([*HELEXA, "--help"], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    assert min(help_s() for _ in range(3)) < 0.2
