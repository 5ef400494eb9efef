"""`helexa gateway` where it serves nothing: what it says of its settings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from helexa.cli.main import cli

NODE = '[[neurons]]\nname = "a"\nendpoint = "http://h"\n'
KEY = "[[entitlements.keys]]\nkey = 'k'\naccount_id = '{}'\n"

# Checks a configuration where what a gateway never needs is not there.
WITHOUT = """
import sys
absent = ("torch", "numpy", "tokenizers", "transformers", "httpx", "anyio", "pydantic")
sys.modules.update(dict.fromkeys(absent))
from helexa.cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("CORTEX_")]:
        monkeypatch.delenv(name)


def check(path: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["gateway", "--check", "--config", str(path), *args])


def written(folder: Path, text: str) -> Path:
    """A configuration in a folder, its catalogue beside it."""
    path = folder / "gateway.toml"
    path.write_text(f"models_config = '{folder / 'models.toml'}'\n{text}")
    return path


def test_a_configuration_that_can_be_used(tmp_path: Path) -> None:
    done = check(written(tmp_path, NODE))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "ok\n", "")


def test_warnings_do_not_stop_a_start(tmp_path: Path) -> None:
    path = written(tmp_path, f"colour = 1\n{NODE}")
    models = tmp_path / "models.toml"
    models.write_text("size = 2")
    done = check(path)
    assert (done.exit_code, done.stdout) == (0, "ok\n")
    assert done.stderr.splitlines() == [
        f"warning: unknown key colour in {path}",
        f"warning: unknown key size in {models}",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neurons: is missing"),
        (NODE.replace("neurons", "nodes"), "neurons: is missing, and nodes is not read: use [[neu"),
        (NODE + NODE, "neurons[1].name: 'a' is also the name of neurons[0]"),
        (f"gateway.listen = 'x'\n{NODE}", "gateway.listen: expected host:port"),
        (
            f"{NODE}{KEY.format('a')}window = {{kind = 'rolling', seconds = 0}}",
            "entitlements.keys[0].window.seconds: expected a positive integer, got 0",
        ),
        (
            f"{NODE}{KEY.format('a')}{KEY.format('b')}",
            "entitlements.keys[1].key: is also the key of entitlements.keys[0]",
        ),
        ("neurons = [", "line 2, column 12: "),
        (f"entitlements.ledger = 'mysql://'\n{NODE}", "entitlements.ledger: expected memory"),
    ],
    ids=["none", "nodes", "twice", "listen", "window", "key", "broken", "ledger"],
)
@pytest.mark.parametrize("args", [["--check"], []], ids=["check", "start"])
def test_g003_fail_fast(tmp_path: Path, text: str, reason: str, args: list[str]) -> None:
    path = written(tmp_path, text)
    done = CliRunner().invoke(cli, ["gateway", "-c", str(path), *args])
    assert (done.exit_code, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"failed to load config from '{path}': {reason}")


def test_g003_a_path_must_exist(tmp_path: Path) -> None:
    done = check(tmp_path / "absent.toml", "--neuron", "a=http://h")
    assert (done.exit_code, done.stdout) == (2, "")
    expected = f"failed to load config from '{tmp_path / 'absent.toml'}': no such file\n"
    assert done.stderr == expected


def test_g003_a_broken_catalogue(tmp_path: Path) -> None:
    path, models = written(tmp_path, NODE), tmp_path / "models.toml"
    models.write_text("[[models]\n")
    done = check(path)
    assert (done.exit_code, done.stdout) == (2, "")
    expected = f"failed to load config from '{path}': models_config: {models}: line 1, column 9: "
    assert done.stderr.startswith(expected)


def test_g004_catalogue_missing(tmp_path: Path) -> None:
    path = written(tmp_path, NODE)
    assert check(path).stdout == "ok\n"
    assert check(path, "--models", "/dev/null").stdout == "ok\n"
    (tmp_path / "models.toml").write_text('[aliases]\n"a" = "b"')
    assert check(path).stdout == "ok\n"


def test_options_are_stronger_than_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, NODE)
    monkeypatch.setenv("CORTEX_GATEWAY__LISTEN", "x")
    assert check(path).stderr.splitlines()[0].partition(": expected")[0].endswith("__LISTEN")
    options = ["--listen", "[::1]:0", "--metrics-listen", "", "--neuron", "b=http://h:1"]
    assert check(path, *options).stdout == "ok\n"
    bad = ["--listen", "y", "--metrics-listen", "z", "--neuron", "b", "--neuron", "=http://h"]
    said = [line.split(": ")[1] for line in check(path, *bad).stderr.splitlines()]
    assert said == ["--neuron", "--neuron[0].name", "--listen", "--metrics-listen"]


def test_a_level_that_there_is_not_is_wrong_use() -> None:
    done = CliRunner().invoke(cli, ["gateway", "--check", "--log-level", "loud"])
    assert done.exit_code == 2
    assert "'loud' is not one of" in done.stderr


def test_g185_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "gateway", "--check", "-c", str(written(tmp_path, NODE))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("option", ["--listen", "--metrics-listen"])
def test_an_address_in_use(tmp_path: Path, option: str) -> None:
    free = {"--listen": "127.0.0.1:0", "--metrics-listen": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = [word for pair in (free | {option: address}).items() for word in pair]
        done = subprocess.run(
            [sys.executable, "-m", "helexa", "gateway", "-c", str(written(tmp_path, NODE)), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"error: cannot listen on {address}: address already in use" in done.stderr
    assert f"hint: choose another with {option}" in done.stderr
