"""The daemon as its operator meets it: exit statuses, lines on stderr, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.neuron.daemon_process import SPARE, Daemon, alive, family_of, started
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

TIMEOUT_S = 60
SECRETS = ("s3cret-bearer", "zebra-prompt", "quagga-message", "okapi-tool")
TINY_OFF = """
default_models = [{model_id = "builtin:helexa/tiny"}]
engine.prefix_cache.enabled = false
"""


def neuron(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "helexa", "neuron", *args],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **environ},
    )


BOTH = "[engine.sources.x]\nendpoint = 'e'\npath = 'p'"


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ("port = 0\nhost = \n", {}, "line 2, column 8: "),
        ("", {"NEURON_HTTP__MAX_BODY_MB": "soon"}, "NEURON_HTTP__MAX_BODY_MB: expected a positive"),
        (BOTH, {}, "engine.sources.x: needs either endpoint or path"),
        ("[engine.sources.'a:b']\npath = 'p'", {}, "engine.sources.a:b: the scheme 'a:b' contains"),
        (None, {}, "no such file"),
    ],
    ids=["syntax", "variable", "both", "scheme", "missing"],
)
def test_n003_config_errors(
    tmp_path: Path, text: str | None, environ: dict[str, str], says: str
) -> None:
    path = tmp_path / "neuron.toml"
    if text is not None:
        path.write_text(text)
    done = neuron("-c", str(path), "-p", "0", **environ)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"failed to load config from '{path}': {says}")


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["serve", "check"])
def test_n003_a_folder_is_no_configuration(tmp_path: Path, check: list[str]) -> None:
    done = neuron("-c", str(tmp_path), *check)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"failed to load config from '{tmp_path}': cannot be read: Is a directory\n"
    )


def test_n007_check(tmp_path: Path) -> None:
    path = tmp_path / "neuron.toml"
    path.write_text('host = "127.0.0.1"\nport = 1\n')
    done = neuron("-c", str(path), "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def ended(daemon: Daemon) -> None:
    """Stopped when idle it leaves at once, with nothing behind it."""
    wait_until(lambda: bool(family_of(daemon.process.pid)))
    family = family_of(daemon.process.pid)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(TIMEOUT_S) == 0
    assert not alive(family)
    assert daemon.words().rstrip().endswith("shutdown complete")


def test_n004_n008_a_daemon_that_tolerates_and_stops(tmp_path: Path) -> None:
    """Fixture F, with a key that means nothing and an engine that does not exist."""
    config = 'colour = "red"\nharnesses = [{name = "candle"}, {name = "other"}]\n'
    with started(tmp_path, config, {"NEURON_BATCHING": "0", **SPARE}) as daemon:
        assert daemon.http.get("/discovery").json()["harnesses"] == ["candle"]
        ended(daemon)
        warnings = [line for line in daemon.words().splitlines() if "WARN" in line]
        assert sum("colour" in line for line in warnings) == 1
        assert sum("'other'" in line for line in warnings) == 1
        assert "Traceback" not in daemon.words()


def test_n008_n135_n144_a_daemon_with_a_model(tmp_path: Path) -> None:
    """Fixture T without a prefix cache, and every word that it writes in its life."""
    with started(tmp_path, TINY_OFF, {"HELEXA_LOG": "trace"}) as daemon:
        said = [tell(daemon, secret) for secret in (False, True)]
        assert said[0] == said[1]
        ended(daemon)
        words = daemon.words()
    assert "request done" in words
    assert [secret for secret in (*SECRETS, said[0]) if secret in words] == []


def tell(daemon: Daemon, stream: bool) -> str:
    """What a client with a secret, a prompt and a tool is answered."""
    tool = {"type": "function", "function": {"name": SECRETS[3], "description": SECRETS[3]}}
    body = {
        "model": "helexa/tiny",
        "messages": [{"role": "user", "content": f"{SECRETS[1]} {'word ' * 40}{SECRETS[2]}"}],
        "tools": [tool],
        "tool_choice": "none",
        "temperature": 0,
        "max_tokens": 40,
        "ignore_eos": True,
        "stream": stream,
    }
    headers = {"authorization": f"Bearer {SECRETS[0]}"}
    answer = daemon.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    text, usage = told(answer, stream)
    assert usage["completion_tokens"] == 40
    assert "prompt_tokens_details" not in usage
    assert len(text) > 20
    return text


def told(answer: httpx.Response, stream: bool) -> tuple[str, dict[str, object]]:
    if not stream:
        return answer.json()["choices"][0]["message"]["content"], answer.json()["usage"]
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    chunks = [json.loads(line) for line in lines if line.startswith("{")]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    (usage,) = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    return "".join(delta.get("content", "") for delta in deltas), usage
