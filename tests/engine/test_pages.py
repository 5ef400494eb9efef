"""Torch is asked for large pages, in time and only where that is wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helexa.engine.pages import VARIABLE, prefer_large_pages

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LOADED = """
import os, helexa, torch
before = dict(os.environ)
llm = helexa.LLM("tiny", device="cpu")
assert dict(os.environ) == before  # what this process starts decides for itself
"""
HELD = """
import torch
held = torch.ones(2**24)
for line in open("/proc/self/smaps"):
    start, dash, stop = line.split()[0].partition("-")
    if dash:
        within = int(start, 16) <= held.data_ptr() + held.nbytes // 2 < int(stop, 16)
    elif within and start == "VmFlags:":
        print(line)
"""
PROGRAMS = {
    "by the SDK": LOADED + HELD,
    "by the engine": "from helexa.engine.loading import load_model; load_model('tiny')" + HELD,
}


@pytest.mark.parametrize("environ", [{}, {"PATH": "/bin"}, {VARIABLE: "0"}, {VARIABLE: "1"}])
def test_the_environment_stays_as_it_is(environ: dict[str, str]) -> None:
    before = dict(environ)
    prefer_large_pages(environ)
    assert environ == before


@pytest.mark.skipif(
    not PAGES.exists() or "[madvise]" not in PAGES.read_text(),
    reason="this system gives large pages to everyone or to nobody",
)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize(("disabled", "large"), [("compile", True), ("large_pages", False)])
def test_what_torch_gives_out_lies_on_them(disabled: str, large: bool, program: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    made = subprocess.run(
        [sys.executable, "-c", program],
        env={**environ, "HELEXA_DISABLE": disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    _, *flags = made.stdout.split()
    assert ("hg" in flags) == large  # asked for; whether there are any is the system's affair
