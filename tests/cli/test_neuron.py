"""`helexa neuron` where it serves nothing: which build it is, and whether ranks can meet."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

import helexa
from helexa.cli.main import cli
from helexa.cli.options import LEVELS as CLI_LEVELS
from helexa.daemon.logs import LEVELS
from helexa.engine.tp_smoke import smoke
from helexa.errors import DeviceError
from helexa.neuron.nvml import Cards, NvmlFailed, usable_cuda
from helexa.protocol.control import DeviceInfo

HELEXA = [sys.executable, "-m", "helexa", "neuron"]
CARD = DeviceInfo(index=0, name="GPU", vram_total_mb=1, compute_capability="8.9")


def test_n007_the_version_names_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELEXA_BUILD_SHA", "0123456789abcdef")
    done = CliRunner().invoke(cli, ["neuron", "--version"])
    assert done.exit_code == 0
    expected = rf"helexa {re.escape(helexa.__version__)} \(0123456\)( \[cuda\])?\n"
    assert re.fullmatch(expected, done.stdout)


@pytest.mark.parametrize(
    ("cards", "version"),
    [
        (Cards(), None),
        (Cards((CARD,), cuda_version="12.8"), "12.8"),
        (Cards(unavailable="driver/library mismatch"), None),
    ],
    ids=["none", "one", "mismatch"],
)
def test_a_build_can_use_cuda_where_there_is_a_card(cards: Cards, version: str | None) -> None:
    assert usable_cuda(lambda: cards) == version


def test_a_driver_that_does_not_answer_cannot_be_used() -> None:
    def fail() -> Cards:
        raise NvmlFailed("no answer")

    assert usable_cuda(fail) is None


def test_n007_two_ranks_meet() -> None:
    done = subprocess.run(
        [*HELEXA, "--tp-smoke", "--tp-size", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["status=ok", "tp_size=2", "cuda_devices=0,1"]


def test_ranks_that_do_not_meet_in_time_are_ended() -> None:
    with pytest.raises(DeviceError, match="2 ranks have not met within 0 s"):
        smoke([0, 1], timeout_s=0)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--tp-smoke"], "needs --tp-size"),
        (["--tp-smoke", "--tp-size", "1"], "x>=2"),
        (["--tp-smoke", "--tp-size", "2", "--cuda-devices", "0"], "lists 1 devices"),
        (["--tp-smoke", "--tp-size", "2", "--cuda-devices", "0,x"], "'0,x' is not a list"),
        (["--tp-size", "2"], "belong to --tp-smoke"),
    ],
    ids=["no-size", "one", "too-few", "words", "alone"],
)
def test_n007_a_smoke_test_that_makes_no_sense_is_wrong_use(args: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, ["neuron", *args])
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_level_that_there_is_not_is_wrong_use() -> None:
    done = CliRunner().invoke(cli, ["neuron", "--check", "--log-level", "loud"])
    assert done.exit_code == 2
    assert "'loud' is not one of" in done.stderr
    assert set(CLI_LEVELS) == set(LEVELS)


def test_n007_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*HELEXA, "-p", str(port)], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert f"cannot bind 127.0.0.1:{port}: address already in use" in done.stderr
