"""`helexa serve` and `helexa neuron` as processes: they answer, stop, and say what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

TIMEOUT_S = 60


@contextmanager
def started(*args: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "helexa", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_command_serves_and_one_signal_ends_it() -> None:
    with started("serve", "-p", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        body = {
            "model": "builtin:helexa/tiny",
            "messages": [{"role": "user", "content": "Hello!"}],
            "temperature": 0,
        }
        answer = httpx.post(f"{found[0]}/v1/chat/completions", json=body, timeout=TIMEOUT_S)
        assert "tiny" in answer.json()["choices"][0]["message"]["content"]
        children = children_of(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_model_that_is_not_there_ends_it() -> None:
    with started("serve", "nonsense", "-p", "0") as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1
        assert "error: model id 'nonsense'" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("args", [["--check"], []])
def test_n007_a_bad_configuration_is_named_key_by_key(tmp_path: Path, args: list[str]) -> None:
    path = tmp_path / "neuron.toml"
    path.write_text('port = "x"\n[engine.admission]\nmax_wait_secs = "soon"\n')
    done = subprocess.run(
        [sys.executable, "-m", "helexa", "neuron", "-c", str(path), *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"failed to load config from '{path}': port: ")
    assert "engine.admission.max_wait_secs" in lines[1]
