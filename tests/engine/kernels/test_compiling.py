"""Every kernel of stored matrices compiles for GPUs that are not there.

Triton's interpreter forgives what its compiler refuses, and no machine without a GPU would notice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import helexa

pytest.importorskip("triton", reason="there is no triton for this machine")

SCRIPT = Path(__file__).parent / "compile_kernels.py"
SMALLEST = {75: 64 * 1024, 80: 99 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that a program has; of 8.x, GPUs of 8.6 and 8.9 have least."""


@pytest.mark.parametrize(
    ("capability", "dtype", "formats"),
    [
        (75, "fp16", "Q4_K"),
        (80, "fp32", "plain"),
        (90, "bf16", "fp8"),
    ],
)
def test_kernels_compile(capability: int, dtype: str, formats: str, tmp_path: Path) -> None:
    environ = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environ["PYTHONPATH"] = str(Path(helexa.__file__).parents[1])
    environ.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(capability), dtype, formats],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)
    rows = 2 if dtype == "fp32" or capability < 80 else 3
    assert len(asked) == len(formats.split(",")) * (2 * rows + 1)
    assert max(asked.values()) <= SMALLEST[capability]
