"""Torch is asked for large pages, in time and only where that is wanted."""

from __future__ import annotations

import os
import re
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
print(open("/proc/self/smaps_rollup").read())
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
    found = re.search(r"AnonHugePages:\s+(\d+) kB", made.stdout)
    assert found is not None
    assert (int(found[1]) >= 2**24 * 4 // 1024 // 2) == large
