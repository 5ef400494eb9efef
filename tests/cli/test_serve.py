"""`helexa serve` and `helexa neuron` as processes: they answer, stop, and say what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import helexa
from helexa.cli.serve import model_name
from tests.engine.checkpoint.gguf_files import plain, write_gguf

TIMEOUT_S = 100
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:1"}
HELLO = [{"role": "user", "content": "Hello!"}]
TINY = Path(helexa.__file__).parent / "builtin/tiny"


@contextmanager
def started(*args: str, cwd: Path | None = None, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "helexa", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **environ},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass
class Told:
    """Where a server says that it answers."""

    id: str
    url: str
    metrics: str

    def post(self, path: str, key: str = "", **more: Any) -> httpx.Response:
        """Ask the model a question."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": self.id, "messages": HELLO, "temperature": 0, **more}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=TIMEOUT_S)


def told(process: subprocess.Popen[str]) -> Told:
    """What is printed once the model answers."""
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"(\S+) answers at (http\S+)/v1\n", line)
    assert found, line
    said = [process.stderr.readline() for _ in range(2)]
    metrics = re.fullmatch(r"Metrics are at (\S+)\n", said[0])
    assert metrics and said[1] == "^C ends it.\n", said
    return Told(found[1], found[2], metrics[1])


def test_one_command_serves_and_one_signal_ends_it() -> None:
    with started("serve", "-p", "0") as process:
        server = told(process)
        answer = server.post("/v1/chat/completions")
        assert "tiny" in answer.json()["choices"][0]["message"]["content"]
        answer = server.post("/v1/messages", max_tokens=40)
        assert "tiny" in answer.json()["content"][0]["text"]
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
        names = ["builtin:helexa/tiny", "helexa/tiny", "tiny"]
        assert [model["id"] for model in listed] == names
        for name in names:
            assert server.post("/v1/messages", max_tokens=1, model=name).status_code == 200
        assert httpx.get(server.url).json()["nodes"] == {"healthy": 1, "total": 1}
        counted = httpx.get(server.metrics).text
        assert re.search(r'cortex_requests_total\{model="builtin:helexa/tiny",\S+\} 5', counted)
        children = children_of(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A working folder with a model in `models/my model`, and what is none."""
    model = tmp_path / "models/my model"
    model.mkdir(parents=True)
    for file in TINY.iterdir():
        (model / file.name).symlink_to(file)
    (tmp_path / "empty").mkdir()
    (tmp_path / "temporary").mkdir()
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return tmp_path


@pytest.mark.parametrize("where", ["relative", "dotted", "absolute"])
def test_a_folder_is_served(disk: Path, where: str) -> None:
    forms = {
        "relative": "models/my model",
        "dotted": "./models/my model/",
        "absolute": str(disk / "models/my model"),
    }
    temporary = disk / "temporary"
    with started(
        *("serve", forms[where], "-p", "0"), cwd=disk, TMPDIR=str(temporary), **NO_HUB
    ) as process:
        server = told(process)
        assert server.id == "folder:local/my-model"
        listed = httpx.get(f"{server.url}/v1/models", timeout=TIMEOUT_S).json()
        names = [server.id, "local/my-model"]
        assert [model["id"] for model in listed["data"]] == names
        for name in names:
            answer = server.post("/v1/chat/completions", model=name)
            assert answer.status_code == 200, answer.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    assert list(temporary.iterdir()) == []
    assert (disk / "models/my model/config.json").exists()


def test_a_gguf_file_is_served(disk: Path) -> None:
    write_gguf(TINY, disk / "tiny-F16.gguf", plain(np.float16), tokenizer=True)
    with started("serve", "tiny-F16.gguf", "-p", "0", cwd=disk, **NO_HUB) as process:
        server = told(process)
        assert server.id == "folder:local/tiny-F16"
        answer = server.post("/v1/chat/completions")
        assert "tiny" in answer.json()["choices"][0]["message"]["content"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("empty", "'empty' holds no weights"),
        ("./nowhere", "'./nowhere' is no existing path"),
        ("/nowhere/at/all", "'/nowhere/at/all' is no existing folder"),
        ("m.gguf", "m.gguf is not a whole GGUF file"),
        ("./m.gguf", "m.gguf is not a whole GGUF file"),
        ("models", "'models' holds no weights"),
    ],
)
def test_what_is_no_model_is_named(disk: Path, model: str, says: str) -> None:
    with started("serve", model, "-p", "0", cwd=disk, **NO_HUB) as process:
        out, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert (out, errors.count("error: ")) == ("", 1)
    assert says in errors
    assert "Traceback" not in errors


def test_the_name_of_a_folder_is_one_that_a_model_may_have() -> None:
    names = {"/a/b c:d": "b-c-d", "/": "model", "/a/..b": "..b", "/a/---": "model", "/x/ů": "model"}
    assert {path: model_name(Path(path)) for path in names} == names


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_model_that_is_not_there_ends_it() -> None:
    with started("serve", "nonsense", "-p", "0") as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1
        assert "error: model 'nonsense' is no existing folder" in errors
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
