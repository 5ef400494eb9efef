"""What the interpreter forgives, a compiler does not: every kernel of a decode step is compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_decode.py")
SHARED_BYTES = {"75": 64 * 1024, "80": 99 * 1024, "90": 227 * 1024}
"""What a kernel may have on the smallest GPUs of a generation."""

KERNELS = {
    f"{name}_kernel"
    for name in (
        *("add_norm", "added", "angles", "best", "combine", "draw", "guess", "joined"),
        *("look_up", "normed", "place", "silu_mul", "split", "sums"),
    )
}


@pytest.mark.parametrize(("capability", "dtype"), [("80", "bf16")])
def test_kernels_compile(capability: str, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="there is no triton for this machine")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), capability, dtype],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)
    assert {name for name, _ in asked} == KERNELS
    assert max(shared for _, shared in asked) <= SHARED_BYTES[capability]
