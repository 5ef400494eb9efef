"""What the C library keeps of free memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from helexa.heap import keep_working_memory
if "keep" in sys.argv:
    assert keep_working_memory()
blocks = [bytearray(40 << 20), bytearray(12 << 20)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    blocks.clear()
    blocks += [bytearray(b"1") * (size << 20) for size in (40, 12)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_asked_for_again() -> None:
    """40 MiB are more than glibc ever keeps by itself."""
    faults = []
    for argument in ("leave", "keep"):
        command = [sys.executable, "-c", FAULTS, argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults.append(int(done.stdout))
    assert 3 * faults[1] < faults[0]
