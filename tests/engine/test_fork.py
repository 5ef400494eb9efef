"""A process that was copied: the engine's thread is not in the copy, and nobody waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, threading
from helexa.engine.host import ThreadHost
from helexa.errors import EngineLost
from pathlib import Path
from tests.cores import REQUEST, CountingCore
from tests.test_host import read_all_after

def counting():
    return CountingCore(Path(os.environ["FOLDER"]))

host = ThreadHost(counting)
host.start()
held, forked = threading.Event(), threading.Event()

def hold():  # as a thread that is submitting at the moment of the fork
    with host._gate:
        held.set()
        forked.wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # ends a child that waits
    try:
        host.submit(REQUEST, print)
    except EngineLost as error:
        assert str(os.getppid()) in str(error) and "child" in error.hint, error
        host.abort(0)
        host.status()
        assert host.close()
        own = ThreadHost(counting)
        own.start()
        assert read_all_after(own)[0] == [0, 1, 2]
        os._exit(0 if own.close() else 2)
    os._exit(3)
forked.set()
_, status = os.waitpid(child, 0)
assert read_all_after(host)[0] == [0, 1, 2]
assert host.close()
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not copy processes")
def test_a_copy_of_a_host_in_a_child_process_says_that_it_is_none(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or str(root) for p in sys.path),
            "FOLDER": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, (run.returncode, run.stderr)
