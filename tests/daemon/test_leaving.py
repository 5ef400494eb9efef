"""A process ends although a thread of it waits for something."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading, time
from helexa.daemon.leaving import leave

sleeps_s, kind = float(sys.argv[1]), sys.argv[2]
threading.Thread(target=time.sleep, args=[sleeps_s], daemon=kind == "daemon").start()
print("said")
leave(0.2)
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("sleeps_s", "kind", "status"),
    [(90, "thread", 0), (90, "daemon", 3), (0, "thread", 3)],
    ids=["waits", "waits for nobody", "has ended"],
)
def test_who_would_hold_up_the_end_does_not(sleeps_s: float, kind: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(sleeps_s), kind],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "said\n", "")
