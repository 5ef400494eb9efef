"""What a model occupies in each format, beside its file: written, loaded, asked for a token.

    python -m benchmarks.format_memory                       # Qwen3 0.6B shape, some minutes
    python -m benchmarks.format_memory --shape small --json -

Each file is loaded by a process of its own; what that held before is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import helexa
from benchmarks.shapes import SHAPES, make_checkpoint
from helexa.quantising import quantise_to_file

FORMATS = ("f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0")
TINY = Path(helexa.__file__).parent / "builtin" / "tiny"
MIB = 2**20
LOAD = """
import sys, time
from helexa.engine.loading import load_model

def mib(field):
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024

load_model("tiny", device="cpu").compute_logits([1, 2])  # whatever is imported late
before = mib("VmRSS")
began = time.perf_counter()
model = load_model(sys.argv[1], device="cpu")
took = time.perf_counter() - began
peak = mib("VmHWM") - before
model.compute_logits([1, 2, 3])
print(took, mib("VmRSS") - before, peak, model.nbytes / 2**20)
"""


@dataclass(frozen=True, slots=True)
class Occupied:
    """Sizes in MiB and times in seconds.

    ``weights_mib`` is what the model counts, ``resident_mib`` what the process holds for it, and
    ``peak_mib`` the most that it held while loading.
    """

    format: str
    file_mib: float
    weights_mib: float
    resident_mib: float
    peak_mib: float
    quantise_s: float
    load_s: float


def measure(folder: Path, format: str, work: Path) -> Occupied:
    """One format of a checkpoint."""
    written = quantise_to_file(folder, work / f"{format}.gguf", format)
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(written.path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    load_s, resident, peak, weights = map(float, run.stdout.split())
    written.path.unlink()
    return Occupied(format, written.nbytes / MIB, weights, resident, peak, written.seconds, load_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--json", metavar="PATH", help="write the readings there; - for stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = make_checkpoint(options.shape, work)
        shutil.copy(TINY / "tokenizer.json", folder)
        found = [measure(folder, format, work) for format in FORMATS]
    document = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "shape": options.shape,
        "formats": [asdict(occupied) for occupied in found],
    }
    if options.json == "-":
        print(json.dumps(document, indent=1))
        return
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    print("| format | file, MiB | weights | resident | of the file | peak | written | loaded |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for o in found:
        print(
            f"| {o.format} | {o.file_mib:.0f} | {o.weights_mib:.0f} | {o.resident_mib:.0f} "
            f"| {o.resident_mib / o.file_mib:.2f} × | {o.peak_mib:.0f} | {o.quantise_s:.0f} "
            f"| {o.load_s:.1f} |"
        )


if __name__ == "__main__":
    main()
