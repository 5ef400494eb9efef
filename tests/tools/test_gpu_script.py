"""`benchmarks/gpu.sh` without a GPU: what it would run is there, and takes what it is given."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import gpu_decode, gpu_products, long_context, look_ahead

ROOT = Path(__file__).parents[2]
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "benchmarks.gpu_decode": gpu_decode.options,
    "benchmarks.gpu_products": gpu_products.options,
    "benchmarks.long_context": long_context.options,
    "benchmarks.look_ahead": look_ahead.options,
}
STUB = """#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in
-c*) exit "$NO_GPU" ;;
*"$FAILING"*) exit 3 ;;
esac
"""


def run(
    folder: Path, *options: str, no_gpu: int = 0, failing: str = "nothing", **settings: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """What the script does with an interpreter that notes what it is asked; and what that was."""
    python, calls = folder / "python", folder / "calls"
    python.write_text(STUB)
    python.chmod(0o755)
    calls.write_text("")
    given = {"PYTHON": str(python), "CALLS": str(calls), "NO_GPU": str(no_gpu), "FAILING": failing}
    environ = {name: text for name, text in os.environ.items() if name not in ("QUICK", "PARTS")}
    done = subprocess.run(
        [str(ROOT / "benchmarks/gpu.sh"), *options],
        env={**environ, **given, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = [shlex.split(line) for line in calls.read_text().splitlines()]
    return done, lines[1:]  # the first asks for the GPU


@pytest.mark.parametrize("quick", ["", "1"])
def test_everything_it_calls_is_there(quick: str, tmp_path: Path) -> None:
    done, calls = run(tmp_path, "--shapes", "0.6b", QUICK=quick, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    modules = {call[1]: call[2:] for call in calls}
    assert list(modules)[-1] == "benchmarks.gpu_report"
    expected = {*PARSERS, "pytest", "benchmarks.gpu_report"}
    assert set(modules) == (expected - {"benchmarks.long_context"} if quick else expected)
    results = Path(modules["benchmarks.gpu_report"][0])
    results.mkdir()  # the script has taken it away, and parsers look whether it can be written to
    for module, parser in PARSERS.items():
        if module in modules:
            args = parser().parse_args(modules[module])
            assert Path(args.json).parent == results
    assert gpu_decode.options().parse_args(modules["benchmarks.gpu_decode"]).quick == bool(quick)
    files = [item for item in modules["pytest"] if item.startswith("tests/")]
    assert "tests/engine/test_on_gpu.py" in files
    assert "tests/engine/kernels/test_decoding.py" in files
    assert all((ROOT / file).is_file() for file in files)


def test_parts_by_name(tmp_path: Path) -> None:
    done, calls = run(tmp_path, PARTS="products decode")
    assert done.returncode == 0
    assert [call[1].partition("gpu_")[2] for call in calls] == ["products", "decode", "report"]


def test_a_part_that_fails_is_told_and_the_others_run(tmp_path: Path) -> None:
    done, calls = run(tmp_path, failing="gpu_decode")
    assert done.returncode == 1
    assert len(calls) == 6
    done, calls = run(tmp_path, PARTS="no-such-part")
    assert done.returncode == 1
    assert "no part named no-such-part" in done.stderr
    assert len(calls) == 1


def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path: Path) -> None:
    done, calls = run(tmp_path, no_gpu=1)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no CUDA device" in done.stderr
    assert calls == []


@pytest.mark.parametrize("module", ["gpu_decode", "gpu_products", "look_ahead"])
def test_so_do_the_benchmarks(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--json", str(tmp_path / "x.json")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    assert "CUDA device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.json").exists()
