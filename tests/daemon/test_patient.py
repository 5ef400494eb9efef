"""A log that nobody reads holds up nobody."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from helexa.daemon.patient import PatientWriter
from tests.waiting import wait_until


class Halted(io.StringIO):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait(20)
        return super().write(text)


def test_a_halted_stream_holds_up_only_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    halted = Halted()
    writer = PatientWriter(halted, most=3)
    writer.write("0\n")
    wait_until(lambda: not writer._waiting)  # the thread has the first
    began = time.monotonic()
    for n in range(1, 9):
        writer.write(f"{n}\n")
    assert not writer.finish(0.05)
    assert time.monotonic() - began < 5
    halted.go.set()
    assert writer.finish()
    assert halted.getvalue() == "0\n1\n2\n3\n"
    wait_until(lambda: "5 lines of this log were lost" in caplog.text)


@pytest.mark.parametrize("kind", ["closed", "none"])
def test_a_stream_that_is_gone_is_survived(kind: str) -> None:
    gone = io.StringIO() if kind == "closed" else None
    if gone is not None:
        gone.close()
    writer = PatientWriter(gone)
    for _ in range(3):
        writer.write("x\n")
    assert writer.finish()


@pytest.mark.skipif(sys.platform != "linux", reason="makes a small pipe")
def test_a_daemon_goes_on_and_ends_though_nobody_reads_its_log(tmp_path: Path) -> None:
    import fcntl

    config = tmp_path / "neuron.toml"
    config.write_text('host = "127.0.0.1"\nport = 0\n')
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "helexa", "neuron", "-c", str(config)]
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        try:
            said = b""
            while b"listening on " not in said or not said.endswith(b"\n"):
                said += os.read(ours, 4096)
            url = said.decode().partition("listening on ")[2].split()[0]
            body = {"model": "o/n", "prompt": "x"}
            with httpx.Client(base_url=url, timeout=10) as http:
                for _ in range(60):  # four times what the pipe takes
                    assert http.post("/v1/completions", json=body).status_code == 404
                assert http.get("/health").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(ours)
