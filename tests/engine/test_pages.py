"""Torch is asked for large pages, in time and only where that is wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helexa.engine.pages import VARIABLE, prefer_large_pages

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import helexa.engine, torch
held = torch.ones(2**24)
for line in open("/proc/self/smaps"):
    start, dash, stop = line.split()[0].partition("-")
    if dash:
        within = int(start, 16) <= held.data_ptr() + held.nbytes // 2 < int(stop, 16)
    elif within and start == "VmFlags:":
        print(line)
"""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "1"),
        ({"HELEXA_DISABLE": "compile"}, "1"),
        ({"HELEXA_DISABLE": "compile, large_pages"}, None),
        ({VARIABLE: "0"}, "0"),
    ],
)
def test_when_it_is_asked(environ: dict[str, str], expected: str | None) -> None:
    prefer_large_pages(environ)
    assert environ.get(VARIABLE) == expected


@pytest.mark.skipif(
    not PAGES.exists() or "[madvise]" not in PAGES.read_text(),
    reason="this system gives large pages to everyone or to nobody",
)
@pytest.mark.parametrize(("disabled", "large"), [("", True), ("large_pages", False)])
def test_what_torch_gives_out_lies_on_them(disabled: str, large: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environ, "HELEXA_DISABLE": disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    _, *flags = made.stdout.split()
    assert ("hg" in flags) == large  # asked for; whether there are any is the system's affair
