"""The SDK over a model in a child process: the same answers, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import helexa
from helexa.errors import EngineLost, InvalidRequest
from tests.waiting import wait_until

ASK = [{"role": "user", "content": "What is the capital of France?"}]

SCRIPT = """
import json, sys
import helexa
with helexa.LLM(host="process", device="cpu", dtype="float32") as llm:
    answer = llm.chat(json.loads(sys.argv[1]), temperature=1.0, seed=3, max_tokens=20)
    print(json.dumps([answer.text, sorted(name for name in sys.modules if name == "torch")]))
"""


def test_a_model_in_a_child_process_answers_the_same_without_torch_in_this_one() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(ASK)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    text, loaded = json.loads(run.stdout)
    with helexa.LLM(device="cpu", dtype="float32") as llm:
        assert text == llm.chat(ASK, temperature=1.0, seed=3, max_tokens=20).text
    assert loaded == []


LATE = """
import threading, time
import helexa
llm = helexa.LLM(host="process", device="cpu")
def late():
    time.sleep(0.3)  # by then the main thread is at its end
    print(llm.generate("Once", max_tokens=30, ignore_eos=True).finish_reason)
threading.Thread(target=late).start()
"""


def test_a_thread_that_outlives_the_script_still_has_its_model() -> None:
    command = [sys.executable, "-c", LATE]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, run.stdout) == (0, "length\n"), run.stderr


def test_the_death_of_the_child_is_an_error_of_the_request() -> None:
    with helexa.LLM(host="process", device="cpu") as llm:
        pid = child_of(os.getpid())
        stream = llm.stream("Once", max_tokens=4000, ignore_eos=True)
        next(stream)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineLost, match="SIGKILL"):
            list(stream)
        with pytest.raises(EngineLost):
            llm.generate("Once")


def test_async_and_closing_returns_the_process() -> None:
    async def main() -> str:
        async with helexa.AsyncLLM(host="process", device="cpu") as llm:
            pids.append(child_of(os.getpid()))
            return (await llm.generate("Once upon", max_tokens=4, ignore_eos=True)).text

    pids: list[int] = []
    assert anyio.run(main)
    wait_until(lambda: not Path(f"/proc/{pids[0]}").exists())


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="thread, process"):
        helexa.LLM(host="cloud")


def child_of(pid: int) -> int:
    """The worker that a process has started."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"process.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("there is no child")
